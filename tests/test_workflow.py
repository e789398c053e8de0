"""Workflow files: the article's own, everything that can be wrong with one, and writing it back."""

from __future__ import annotations

import dataclasses
import tracemalloc

import pytest

from lab import params, workflow
from lab.errors import LabError, MissingError, ParameterError
from lab.nodes import Candidate, Input, Monitor

SHIPPED = "params/tune_workflow.yaml"
# Line 1 is empty, so that the numbers below are those of an editor that shows this text.
GOOD = """
workflow:
  name: small
  nodes:
    - name: text_input
      type: input
      config: {type: text, language: [zh, en, ja]}
    - name: image_input
      type: input
      config: {type: image, format: jpeg, resolution: 512x512}
    - name: speech_input
      type: input
      config: {type: audio, format: wav, sampling_rate: 16000}
    - name: tune
      type: tuning
      config:
        quantization: 4bit
        batch_size: 8
        pruning_ratio: 0.2
    - name: watch
      type: monitoring
      config: {metrics: [latency, consistency_score]}
  rules:
    - condition: text_input.present || image_input.present
      next_node: tune
    - condition: tune.completed
      next_node: watch
"""


@pytest.fixture
def shipped(root):
    return workflow.load(root / SHIPPED, shown_as=SHIPPED)


def problems(text):
    with pytest.raises(ParameterError) as caught:
        workflow.parse(text, shown_as="w.yaml")
    return str(caught.value).splitlines()


def changed(old, new):
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


# --- what a file says -----------------------------------------------------------------------------


def test_the_articles_file_is_accepted_as_it_stands(shipped):
    assert shipped.name == "multimodal_tuning"
    assert shipped.inputs == (
        Input("text_input", "text", languages=("zh", "en", "ja")),
        Input("image_input", "image", format="jpeg", resolution=(512, 512)),
        Input("speech_input", "audio", format="wav", sampling_rate=16000),
    )
    assert shipped.candidate == Candidate(
        "optimize_model",
        method="nf4",
        batch_size=8,
        pruning="l1",
        sparsity=0.2,
        ray_mode="ray",
        cache="redis",
    )
    assert shipped.monitor.watched == (
        "latency",
        "throughput",
        "cpu_usage",
        "gpu_usage",
        "consistency_score",
    )
    assert shipped.monitor.metrics == (
        "latency_p50",
        "latency_p95",
        "latency_p99",
        "throughput",
        "consistency",
    )
    assert [rule.next_node for rule in shipped.rules] == ["optimize_model", "prometheus_monitor"]
    assert shipped.steps == ("optimize_model", "prometheus_monitor")


def test_what_is_not_used_is_told_with_its_line(shipped, root):
    lines = (root / SHIPPED).read_text("utf-8").splitlines()
    numbers = [int(note.split(":")[1]) for note in shipped.notes]
    assert numbers == sorted(numbers)
    for word, told in (
        ("cache: redis", "optimize_model.cache: is kept, but the lab has no cache yet"),
        ("metrics:", "prometheus_monitor.metrics: cpu_usage is kept, but the lab does not measure"),
        ("metrics:", "prometheus_monitor.metrics: gpu_usage is kept, but the lab does not measure"),
        ("prometheus_endpoint:", "prometheus_monitor.prometheus_endpoint: is kept, but"),
        ("pruning_ratio:", "optimize_model.pruning_ratio: is not part of 05_consistency"),
        ("name: optimize_model", "optimize_model: what it sets is measured one by one"),
    ):
        line = next(at for at, line in enumerate(lines, 1) if word in line)
        assert any(note.startswith(f"{SHIPPED}:{line}: {told}") for note in shipped.notes), told


@pytest.mark.parametrize("profile", ["smoke", "demo", "full"])
@pytest.mark.parametrize("tenant", ["ecommerce", "education", "medical"])
def test_the_shipped_settings_agree_with_it(shipped, root, tenant, profile):
    assert shipped.problems(params.load(tenant, profile=profile, root=root)) == []


def test_a_node_may_be_named_by_id_and_in_any_script():
    text = GOOD.replace("- name:", "- id:").replace("text_input", "文本输入")
    text = text.replace("tune", "チューニング")
    found = workflow.parse(text)
    assert found.inputs[0].name == "文本输入"
    assert found.candidate.name == "チューニング"
    assert workflow.parse(workflow.dump(found)) == found


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("quantization: 4bit", "method", "nf4"),
        ("quantization: 8bit", "method", "int8"),
        ("quantization: torchao_int8", "method", "torchao_int8"),
        ("quantization: bf16", "method", "bf16"),
        ("quantization: 4bit\n        distributed: ray", "ray_mode", "ray"),
        ("quantization: 4bit\n        distributed: none", "ray_mode", "inline"),
        ("quantization: 4bit\n        cache: none", "cache", "none"),
        ("quantization: 4bit\n        pruning_method: wanda", "pruning", "wanda"),
    ],
)
def test_a_tuning_node_becomes_a_candidate(line, field, expected):
    found = workflow.parse(changed("quantization: 4bit", line))
    assert getattr(found.candidate, field) == expected


def test_what_a_candidate_leaves_out_stays_open():
    text = changed(
        "        quantization: 4bit\n        batch_size: 8\n        pruning_ratio: 0.2\n",
        "        pruning_ratio: 0\n",
    )
    assert workflow.parse(text).candidate == Candidate("tune", sparsity=0.0)


def test_one_language_and_one_metric_need_no_list():
    text = changed("language: [zh, en, ja]", "language: ja")
    text = text.replace("metrics: [latency, consistency_score]", "metrics: throughput")
    found = workflow.parse(text)
    assert found.inputs[0].languages == ("ja",)
    assert found.monitor == Monitor("watch", ("throughput",))


def test_a_workflow_may_do_without_what_its_rules_do_not_need():
    without = GOOD[: GOOD.index("    - name: watch")] + GOOD[GOOD.index("  rules:") :]
    without = without[: without.index("    - condition: tune.completed")]
    assert workflow.parse(without).monitor is None
    inputs = GOOD.index("    - name: text_input"), GOOD.index("    - name: tune")
    blind = GOOD[: inputs[0]] + GOOD[inputs[1] :]
    assert any("must name nodes of this file: tune, watch" in one for one in problems(blind))


# --- what can be wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        # nodes
        ("type: tuning", "type: tunning", 15, "tune.type: must be one of input, tuning, "
         "monitoring, got 'tunning'; did you mean tuning?"),
        ("      type: tuning\n", "", 14, "tune.type: must be one of input, tuning, monitoring, "
         "got None"),
        ("name: watch", "name: tune", 20, "tune: a name must be given to one node, got 'tune'; "
         "it is that of w.yaml:14 too"),
        ("type: monitoring", "type: tuning", 20, "watch: there must be at most one node of type "
         "tuning, got 'a second beside tune'; put it into a workflow of its own"),
        ("type: image, format: jpeg, resolution: 512x512", "type: text", 10, "image_input.type: "
         "there must be at most one input of type text, got 'a second beside "
         "text_input'; delete one"),
        ("name: watch", "name: a b", 20, "name of a node: must begin with a letter, then hold "
         "letters, digits, _ and -, 64 at most, got 'a b'"),
        ("name: watch", "name: " + "x" * 65, 20, "name of a node: must begin with a letter"),
        ("name: watch", "name: 7", 20, "name of a node: must begin with a letter"),
        ("    - name: watch\n      type", "    - type", 20, "name of a node: must begin with a "
         "letter"),
        ("name: watch", "name: watch\n      id: other", 20, "'watch': a node must have one name, "
         "got 'name and id'; delete id"),
        ("type: tuning", "type: tuning\n      colour: red", 16, "tune.colour: unknown key; known: "
         "name, id, type, config"),
        ("config: {metrics: [latency, consistency_score]}", "config: 3", 22, "watch.config: must "
         "hold keys and values, got 3"),
        # config
        ("{type: audio", "{type: video", 13, "speech_input.type: must be one of text, image, audio,"
         " got 'video'"),
        ("{type: text, l", "{l", 7, "text_input.type: must be one of text, image, audio, got N"),
        ("[zh, en, ja]", "[zh, fr]", 7, "text_input.language: must be among zh, en, ja, got 'fr'"),
        ("[zh, en, ja]", "[zh, zh]", 7, "text_input.language: must not repeat a value, got 'zh'; "
         "delete one zh"),
        ("[zh, en, ja]", "[]", 7, "text_input.language: must be a list with at least one of zh"),
        ("[zh, en, ja]", "[[zh]]", 7, "text_input.language: must be among zh, en, ja, got ['zh']"),
        ("language:", "languages:", 7, "text_input.languages: unknown key; did you mean language?"),
        ("format: jpeg", "format: png", 10, "image_input.format: must be one of jpeg, jpg, got "
         "'png'"),
        ("format: wav", "format: mp3", 13, "speech_input.format: must be one of wav, got 'mp3'"),
        ("512x512", "512", 10, "image_input.resolution: must be width x height in pixels, got 512; "
         "write it as 512x512"),
        ("512x512", "0x512", 10, "image_input.resolution: must be width x height"),
        ("16000", "16kHz", 13, "speech_input.sampling_rate: must be a whole number of at least 1, "
         "in Hz, got '16kHz'"),
        ("quantization: 4bit", "quantization: 3bit", 17, "tune.quantization: must be one of 4bit, "
         "8bit, fp32, bf16"),
        ("quantization: 4bit", "quantization: 4", 17, "tune.quantization: must be one of 4bit"),
        ("quantization: 4bit", "quantisation: 4bit", 17, "tune.quantisation: unknown key; did you "
         "mean quantization?"),
        ("batch_size: 8", "batch_size: 0", 18, "tune.batch_size: must be a whole number of at "
         "least 1, got 0"),
        ("batch_size: 8", "batch_size: true", 18, "tune.batch_size: must be a whole number"),
        ("batch_size: 8", "batch_size:", 18, "tune.batch_size: must be a whole number of at least "
         "1, got None"),
        ("0.2", "1", 19, "tune.pruning_ratio: must be in [0, 1), got 1; it is the share"),
        ("0.2", "-0.1", 19, "tune.pruning_ratio: must be in [0, 1), got -0.1"),
        ("0.2", ".nan", 19, "tune.pruning_ratio: must be in [0, 1), got nan"),
        ("0.2", "20%", 19, "tune.pruning_ratio: must be a number in [0, 1), got '20%'"),
        ("0.2", "0\n        pruning_method: l1", 20, "tune.pruning_method: there must be a "
         "pruning_ratio above 0 with a method, got 'l1'"),
        ("0.2", "0.2\n        pruning_method: magic", 20, "tune.pruning_method: must be one of l1, "
         "wanda, structured, heads, got 'magic'"),
        ("0.2", "0.2\n        distributed: horovod", 20, "tune.distributed: must be one of ray, "
         "none, got 'horovod'"),
        ("0.2", "0.2\n        cache: memcached", 20, "tune.cache: must be one of redis, none, got "
         "'memcached'"),
        ("[latency, ", "[latencies, ", 22, "watch.metrics: must be among latency, throughput, "
         "consistency_score, error_rate, cpu_usage, gpu_usage, memory_usage, got 'latencies'; did "
         "you mean latency?"),
        ("{metrics: [latency, consistency_score]}", "{}", 22, "watch.metrics: must be a list with "
         "at least one of latency"),
        ("consistency_score]", "latency], prometheus_endpoint: ' '", 22,
         "watch.prometheus_endpoint: must be an address, got ' '"),
        # rules
        ("      next_node: tune\n", "      next_node: tun\n", 25, "rule 1.next_node: must be a "
         "tuning or monitoring node: tune, watch, got 'tun'; did you mean tune?"),
        ("      next_node: tune\n", "", 24, "rule 1.next_node: must be a tuning or monitoring "),
        ("next_node: watch", "next_node: text_input", 27, "rule 2.next_node: must be a tuning or "
         "monitoring node: tune, watch, got 'text_input'; an input is there or not"),
        ("tune.completed", "tunes.completed", 26, "rule 2.condition: must name nodes of this file: "
         "text_input, image_input, speech_input, tune, watch, got 'tunes'; did you mean tune?"),
        ("tune.completed", "tune.present", 26, "rule 2.condition: a tuning node has completed, or "
         "not, got 'tune.present'; write .completed"),
        ("tune.completed", "text_input.completed", 26, "rule 2.condition: an input is present, or "
         "not, got 'text_input.completed'; write .present"),
        ("tune.completed", "tune.completed &", 26, "rule 2.condition: a condition must end or go "
         "on with && or ||, got '&' (character 16); write &&"),
        ("next_node: watch", "next_node: {a: [1]}", 27, "rule 2.next_node: must be a tuning or "),
        ("tune.completed", "true", 26, "rule 2.condition: must be a text, got True"),
        ("condition: tune", "conditions: tune", 26, "rule 2.conditions: unknown key; did you mean "
         "condition?"),
        ("    - condition: tune.completed\n      next_node: watch\n", "    - watch\n", 26, "rule "
         "2: a rule must hold condition and next_node, got 'watch'"),
        # rules that are each sound
        ("tune.completed", "watch.completed", 26, "rule 2: rules must not lead in a circle, got "
         "'watch -> watch'; no node of it could be the first to complete"),
        ("image_input.present\n", "watch.completed\n", 24, "rule 1: rules must not lead in a "
         "circle, got '"),
        ("text_input.present || image_input.present", "text_input.present && !text_input.present",
         24, "rule 1: must be able to fire, got 'text_input.present && !text_input.present'; its "
         "condition is never met, whatever a corpus has"),
        ("text_input.present || image_input.present", "speech_input.present && "
         "!(image_input.present || speech_input.present)", 24, "rule 1: must be able to fire"),
        ("next_node: tune\n", "next_node: watch\n", 14, "tune: a rule must lead to it, got 'none'; "
         "add next_node: tune"),
        ("next_node: tune\n", "next_node: watch\n", 26, "rule 2: must be able to fire, got "
         "'tune.completed'; no rule leads to tune, which therefore never completes"),
        # the whole
        ("  name: small", "  name: ' '", 3, "workflow.name: must be a text of at most 64 "
         "characters, got ' '"),
        ("  name: small\n", "", 2, "workflow.name: must be a text"),
        ("  name: small", "  name: small\n  version: 1", 4, "workflow.version: unknown key"),
        ("\nworkflow:", "more: 1\nworkflow:", 1, "more: unknown key; known: workflow"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(old, new, line, told):
    found = problems(changed(old, new))
    assert any(one.startswith(f"w.yaml:{line}: {told}") for one in found), found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "w.yaml:1: workflow: must hold name, nodes and rules, got None"),
        ("workflow: 3", "w.yaml:1: workflow: must hold name, nodes and rules, got 3"),
        ("workflow:\n  name: x\n  nodes: []\n  rules: {}", "w.yaml:3: workflow.nodes: must be a "
         "list of 1 to 100, got 'a list of 0'"),
        ("workflow:\n  name: x\n  nodes: [x]\n  rules: {}", "w.yaml:4: workflow.rules: must be a "
         "list of 1 to 100, got {}"),
        ("workflow:\n  name: x\n  nodes: [x]\n", "w.yaml:3: workflow.nodes: a node must hold name, "
         "type and config, got 'x'"),
    ],
)  # fmt: skip
def test_what_is_no_workflow_is_refused(text, told):
    assert told in problems(text)


def test_all_problems_come_at_once_in_the_order_of_the_file():
    text = GOOD
    for old, new in (
        ("next_node: watch", "next_node: what"),
        ("4bit", "3bit"),
        ("jpeg", "png"),
        ("small", "small\n  nodez: 1"),
        ("[latency, ", "[lag, "),
    ):
        text = text.replace(old, new)
    found = problems(text)
    lines = [int(one.split(":")[1]) for one in found]
    assert lines == [4, 11, 18, 23, 28]


def test_no_value_is_suggested_that_is_merely_as_short():
    (found,) = problems(changed("4bit", "3bit"))
    assert found.endswith("got '3bit'")
    (found,) = problems(changed("4bit", "4bits"))
    assert found.endswith("got '4bits'; did you mean 4bit?")


def test_a_rule_that_fires_only_if_a_node_fails_is_sound():
    text = changed("tune.completed", "text_input.present && !tune.completed")
    assert workflow.parse(text).steps == ("tune", "watch")


def test_a_wrong_node_does_not_make_its_rules_wrong():
    assert len(problems(changed("{type: audio", "{type: video"))) == 1
    assert len(problems(changed("type: tuning", "type: tuner"))) == 1


def test_an_address_with_a_password_is_not_repeated():
    text = changed("consistency_score]", "latency], prometheus_endpoint: 'http://me:s3cret@host'")
    found = "\n".join(problems(text))
    assert "watch.prometheus_endpoint: must not name a user or hold a password" in found
    assert "s3cret" not in found


def test_hostile_text_stays_text():
    found = "\n".join(problems(changed("4bit", '"\\e[31m\\u202e"')))
    assert "\x1b" not in found
    assert "\u202e" not in found
    assert r"\x1b[31m" in found
    key = '"\\e[31m' + "x" * 5000 + '"'
    found = "\n".join(problems(changed("4bit", f"4bit\n        {key}: 1")))
    assert "\x1b" not in found
    assert len(found) < 1000


# --- hostile YAML ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workflow: !!python/object/apply:os.system ['touch ran']", "w.yaml:1: workflow"),
        ("workflow:\n  name: !!python/name:os.system x", "w.yaml:2: workflow.name"),
        ("workflow:\n  rules:\n    - condition: !a.present\n", "w.yaml:3: workflow.rules.0"),
        ("workflow: " + "[" * 5000 + "]" * 5000, "not valid YAML"),
        ("workflow: " + "[" * 30 + "]" * 30, "at most 20 deep"),
        ("workflow: &a [*a]", "workflow: must hold name, nodes and rules"),
        ("workflow: *a", "w.yaml:1: not valid YAML"),
        ("workflow: 1\nworkflow: 2", "not valid YAML"),
        ("workflow: [1", "not valid YAML"),
        ("- workflow", "must hold keys and values"),
        ("workflow: \x00", "not valid YAML"),
        ("workflow: 1\n---\nworkflow: 2", "w.yaml:2: not valid YAML"),
        ("1: 2", "w.yaml:1"),
        ("workflow: 2020-01-01", "quote it"),
        ("workflow: " + "9" * 5000, "not valid YAML"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_one_clear_message(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = "\n".join(problems(text))
    assert told in found
    assert len(found) < 2000
    assert not (tmp_path / "ran").exists()


def test_a_bomb_of_aliases_takes_little_memory():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for at in range(12):
        lines.append(f"a{at + 1}: &a{at + 1} [{', '.join([f'*a{at}'] * 9)}]")
    tracemalloc.start()
    try:
        found = problems("\n".join(lines))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "at most 10000 values" in found[0]
    assert peak < 50_000_000


def test_a_file_that_is_not_utf8_too_large_or_not_there_is_refused(tmp_path):
    path = tmp_path / "w.yaml"

    def told(raw):
        path.write_bytes(raw)
        with pytest.raises(LabError) as caught:
            workflow.load(path, shown_as="w.yaml")
        return str(caught.value)

    assert "must be UTF-8" in told("workflow: {name: 流程}".encode("gb18030"))
    assert f"at most {workflow.MAX_FILE_BYTES} bytes" in told(b"#" * 10_000_000)
    assert "UTF-8" in told(GOOD.encode("utf-16"))
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert workflow.load(path, shown_as="w.yaml").name == "small"
    for missing in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(MissingError):
            workflow.load(missing, shown_as="w.yaml")


# --- writing --------------------------------------------------------------------------------------


def test_what_is_written_is_read_as_the_same(shipped):
    assert workflow.parse(workflow.dump(shipped)) == shipped
    small = workflow.parse(GOOD)
    assert workflow.parse(workflow.dump(small)) == small


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("optimize_model"),
        Candidate("optimize_model", method="nf4", batch_size=1),
        Candidate("optimize_model", method="torchao_int8", sparsity=0.0),
        Candidate("optimize_model", pruning="wanda", sparsity=0.35, ray_mode="inline"),
        Candidate("optimize_model", method="int8", pruning="l1", sparsity=0.1, cache="none"),
    ],
)
def test_another_candidate_is_written_in_the_same_form(shipped, candidate):
    other = dataclasses.replace(shipped, candidate=candidate)
    text = workflow.dump(other)
    assert text.startswith("workflow:\n  name: multimodal_tuning\n  nodes:\n    - name: text_input")
    assert workflow.parse(text) == other


def test_conditions_and_names_that_yaml_would_take_for_more_are_quoted():
    text = changed(
        "condition: text_input.present || image_input.present",
        "condition: '!text_input.present || (image_input.present && !speech_input.present)'",
    )
    found = workflow.parse(text.replace("name: small", "name: 'yes: #1'"))
    assert workflow.parse(workflow.dump(found)) == found


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("optimize_model", batch_size=0),
        Candidate("optimize_model", method="3bit"),
        Candidate("optimize_model", sparsity=1.0),
        Candidate("optimize_model", pruning="l1"),
        Candidate("another"),
    ],
)
def test_what_no_file_could_hold_is_not_written(shipped, candidate):
    with pytest.raises(ParameterError):
        workflow.dump(dataclasses.replace(shipped, candidate=candidate))

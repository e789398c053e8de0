import re
import shutil

import pytest

from lab import params
from lab.errors import LabError, MissingError, ParameterError, UsageError
from lab.slo import Limit


@pytest.fixture
def project(root, tmp_path):
    shutil.copytree(root / "params", tmp_path / "params")
    return tmp_path


def add(project, file, text):
    path = project / "params" / file
    path.write_text(path.read_text("utf-8") + text, "utf-8")


def problems(project, **given):
    with pytest.raises(LabError) as caught:
        params.load("medical", root=project, **given)
    return str(caught.value)


def test_every_shipped_tenant_and_profile_is_sound(root):
    for tenant in ("ecommerce", "medical", "education"):
        for profile in ("smoke", "demo", "full"):
            assert params.load(tenant, profile=profile, root=root).settings.languages == (
                "zh",
                "en",
                "ja",
            )


def test_later_sources_override_earlier_ones_and_are_named(project):
    add(project, "tenants/medical.yaml", "\nsample: {faq: 77}\n")
    plain = params.load("education", profile="smoke", root=project)
    own = params.load("medical", profile="smoke", root=project)
    forced = params.load("medical", profile="smoke", root=project, overrides=["sample.faq=9"])
    assert [one.settings.sample.faq for one in (plain, own, forced)] == [120, 77, 9]
    assert own.settings.sample.images == 30  # the rest of the profile's mapping stays
    assert plain.origins["sample.faq"].endswith("(profile smoke)")
    assert own.origins["sample.faq"].startswith("params/tenants/medical.yaml:")
    assert forced.origins["sample.faq"] == "--set"


def test_origins_tell_the_line(project):
    lines = (project / "params" / "lab.yaml").read_text("utf-8").splitlines()
    place = params.load("education", root=project).origins["data.max_rows"]
    number = int(place.removeprefix("params/lab.yaml:"))
    assert "max_rows" in lines[number - 1]


def test_notebook_parameters_join_the_common_and_the_notebooks_own(project):
    resolved = params.load(
        "medical", root=project, overrides=["notebooks.01_data_analysis.worst_rows=3", "seed=5"]
    )
    given = params.notebook_parameters(resolved, "01_data_analysis")
    assert (given["tenant"], given["profile"], given["seed"]) == ("medical", "demo", 5)
    assert given["worst_rows"] == 3
    assert given["near_duplicate"] == 0.8


def test_limits_become_limits(project):
    resolved = params.load("medical", root=project)
    assert resolved.settings.checks.contradictions == Limit("<=", 0.001)


def test_all_problems_come_at_once_with_place_rule_value_remedy(project):
    add(
        project,
        "tenants/medical.yaml",
        "\nlanguagess: [zh]\ndata: {max_rows: -3, max_audio_s: .nan}\nlanguages: [zh, zh]\n"
        "slo: {latency_p95: fast}\nseed: '7'\n",
    )
    text = problems(project)
    assert len(text.splitlines()) == 6
    assert "languagess: unknown key; did you mean languages?" in text
    assert "data.max_rows: must be greater than 0, got -3" in text
    assert "languages: must not repeat a value" in text
    assert "a limit must be <, <=, > or >= and a number, got 'fast'" in text
    assert "seed: must be a valid integer, got '7'" in text
    assert all(line.startswith("params/tenants/medical.yaml:") for line in text.splitlines())


@pytest.mark.parametrize("name", ["02", "02_quantization.ipynb", "quantization"])
def test_who_runs_alone_is_named_in_full(project, name):
    text = problems(project, overrides=[f"execution.alone=[01_x, '{name}']"])
    assert f"execution.alone: must name notebooks in full, as 02_quantization, got '{name}'" in text


def test_who_runs_alone_need_not_be_there(project):
    resolved = params.load("medical", root=project, overrides=["execution.alone=[99_later]"])
    assert resolved.settings.execution.alone == ("99_later",)


def test_a_mistake_in_another_profile_is_found_too(project):
    path = project / "params" / "lab.yaml"
    text, changed = re.subn(
        r"(\n  full:.*\n)", r"\1    sample: {faq: 0}\n", path.read_text("utf-8")
    )
    assert changed == 1
    path.write_text(text, "utf-8")
    assert "(profile full): sample.faq: must be greater than 0" in problems(project)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "not valid YAML"),
        ("title: 1\ntitle: 2", "not valid YAML"),
        ("x: !!python/object/apply:os.system ['true']", "must not bear a tag"),
        (
            "a: &a [x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\n"
            "e: &e [*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e]\ng: [*f,*f,*f,*f]",
            "at most 10000 values",
        ),
        ("- a\n- b", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("? {a: [1]}\n: 2", "not valid YAML"),
    ],
)
def test_broken_yaml_is_one_clear_message(project, text, expected):
    add(project, "tenants/medical.yaml", f"\n{text}\n")
    assert expected in problems(project)


def test_an_anchor_may_be_used_again(project):
    add(project, "tenants/medical.yaml", "\nsample: {faq: &a 3, images: &a 4, speech: *a}\n")
    assert params.load("medical", root=project).settings.sample.speech == 4


def test_a_tag_is_told_with_its_line(project):
    add(project, "tenants/medical.yaml", "\nsuite: !x y\n")
    lines = (project / "params" / "tenants" / "medical.yaml").read_text("utf-8").splitlines()
    assert f"params/tenants/medical.yaml:{lines.index('suite: !x y') + 1}: suite" in problems(
        project
    )


def test_keys_that_are_merged_in_count_as_the_mappings_own(project):
    add(project, "tenants/medical.yaml", "\nscale: &s {faq: 3}\nsample:\n  <<: *s\n  images: 4\n")
    assert "scale: unknown key" in problems(project)
    path = project / "params" / "tenants" / "medical.yaml"
    path.write_text("sample: &s {faq: 3}\ndata: {<<: *s}\n", "utf-8")
    assert "params/tenants/medical.yaml:2: data.faq: unknown key" in problems(project)


def test_values_mean_what_yaml_1_2_says(project):
    add(project, "tenants/medical.yaml", "\nsynthesis: {defect_share: 2e-2}\nsuite: no\n")
    text = problems(project)
    assert "suite must name a file in params/models" in text  # `no` is a text, not False
    assert "got 'no'" in text


def test_a_file_that_is_not_utf8_or_too_large_is_refused(project):
    path = project / "params" / "tenants" / "medical.yaml"
    path.write_bytes("title: 医疗".encode("gb18030"))
    assert "must be UTF-8" in problems(project)
    path.write_bytes(b"#" * (params.MAX_FILE_BYTES + 1))
    assert "at most 1000000 bytes" in problems(project)


def test_a_bomb_of_aliases_or_nesting_is_refused(project):
    path = project / "params" / "tenants" / "medical.yaml"
    path.write_text("suite: " + "[" * 5000 + "]" * 5000, "utf-8")
    with pytest.raises(ParameterError):
        params.load("medical", root=project)


@pytest.mark.parametrize(
    "text", ["", "seed", "=1", "seed.=1", "a b=1", "seed=[1", "data=3", "seed=x", "data.x=1"]
)
def test_a_bad_override_is_wrong_usage(project, text):
    with pytest.raises(ParameterError):
        params.load("medical", root=project, overrides=[text])


def test_unknown_tenant_and_profile_are_wrong_usage_with_a_hint(project):
    with pytest.raises(UsageError, match="did you mean medical"):
        params.load("medcal", root=project)
    with pytest.raises(UsageError, match="smoke, demo, full"):
        params.load("medical", profile="quick", root=project)


def test_a_missing_file_is_named(project):
    (project / "params" / "lab.yaml").unlink()
    with pytest.raises(MissingError, match=r"params/lab\.yaml"):
        params.load("medical", root=project)


def test_settings_cannot_be_changed(project):
    settings = params.load("medical", root=project).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


def test_the_data_folder_may_be_set(project):
    assert params.load("medical", root=project).data_folder == project / "data" / "medical"
    moved = params.load("medical", root=project, overrides=["data.folder=/srv/medical"])
    assert str(moved.data_folder) == "/srv/medical"


# --- the ledger's URL -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///reports/a:b@c.db",
        "postgresql+psycopg://lab@host:5432/lab",
        "postgresql+psycopg://lab:${PW}@host/lab?sslmode=require&sslpassword=${OTHER}",
        "postgresql+psycopg://lab@/lab?host=/run/pg&passfile=/home/me/.pgpass",
        "${LAB_LEDGER}",
    ],
)
def test_a_ledgers_url_stays_as_it_is_written(project, url, monkeypatch):
    monkeypatch.setenv("PW", "s3cret")  # settings are shown and stored, so it stays out of them
    resolved = params.load("medical", root=project, overrides=[f"ledger='{url}'"])
    assert resolved.settings.ledger == url
    assert params.load("medical", root=project).settings.ledger == "sqlite:///reports/ledger.db"


@pytest.mark.parametrize(
    "rest",
    [
        "lab:s3cret@host/lab",
        "lab:s3c/r?e@t@host:5432/lab",
        "lab:$s3cret@host/lab",
        "lab:${PW}s3cret@host/lab",
        "lab:${PW}@s3cret@host/lab",
        ":s3cret@host/lab",
        "lab@host/lab?password=s3cret",
        "lab:${PW}@host/lab?a=b&sslpassword=s3cret",
    ],
)
def test_a_password_in_clear_is_refused_and_not_repeated(project, rest):
    add(project, "tenants/medical.yaml", f"\nledger: 'postgresql+psycopg://{rest}'\n")
    text = problems(project)
    assert re.fullmatch(r"params/tenants/medical\.yaml:\d+: ledger: .*", text)
    assert "must not hold a password in clear, got one; write ${LAB_LEDGER_PASSWORD}" in text
    assert "s3c" not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mysql://u:s3cret@host/x", "must begin with sqlite:/// or .*, got 'mysql'"),
        ("ledger.db", "must begin with sqlite:///"),
        ("''", "must begin with sqlite:///"),
        ("null", "must be a text, got NoneType"),
        ("{url: 's3cret'}", "must be a text, got dict"),
    ],
)
def test_a_ledger_of_another_kind_is_refused(project, value, expected):
    add(project, "tenants/medical.yaml", f"\nledger: {value}\n")
    text = problems(project)
    assert re.search(f"ledger: {expected}", text)
    assert "s3cret" not in text

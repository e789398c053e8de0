"""Suites: their files, their pins, the way to a folder; the hub is a small server of our own."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from types import SimpleNamespace

import pytest

from lab import suites
from lab.errors import MissingError, ParameterError, UsageError

OLD, NEW, OTHER = "ef" * 20, "ab" * 20, "cd" * 20
HUB = """# Which checkpoints
roles:
  # hears
  asr:                 # the small one
    hub: owner/name
    revision: null     # not yet
    memory: "0.6 GB"
  clip: {hub: owner/clip, revision: null, ref: refs/pr/66, memory: "1 GB"}   # pull request
  encoder: {folder: models/encoder, memory: '0.1 GB'}
"""
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "vocab.txt": b"a",
    "chat_template.jinja": b"",
    "spiece.model": b"m",
    "README.md": b"card",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"import os",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "params" / "models").mkdir(parents=True)
    (tmp_path / "params" / "lab.yaml").write_text("seed: 0\n")
    write(tmp_path, HUB)
    return tmp_path


def write(project, text, name="hub"):
    path = project / "params" / "models" / f"{name}.yaml"
    path.write_text(text, "utf-8")
    return path


def problems(project, text):
    write(project, text, "mine")
    with pytest.raises(ParameterError) as caught:
        suites.load("mine", root=project)
    return str(caught.value)


# --- files ---------------------------------------------------------------------------------------


def test_the_shipped_suites_are_sound(root):
    assert {"demo", "hub"} <= set(suites.known(root))
    demo, hub = (suites.load(name, root=root) for name in ("demo", "hub"))
    assert list(hub.sources) == ["vlm", "asr", "clip", "encoder"]
    # The demo suite holds the roles that meet their targets so far.
    assert list(demo.sources) == [role for role in hub.sources if role in demo.sources] != []
    assert all((root / source.folder).is_dir() for source in demo.sources.values())
    assert demo.warnings == ()
    assert {role: source.hub for role, source in hub.sources.items()} == {
        "vlm": "llava-hf/llava-1.5-7b-hf",
        "asr": "openai/whisper-base",
        "clip": "openai/clip-vit-base-patch32",
        "encoder": "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    }
    for source in hub.sources.values():
        assert "GB in float32" in source.memory
    unpinned = [source for source in hub.sources.values() if not source.is_pinned]
    assert len(hub.warnings) == len(unpinned)


def test_a_suite_tells_its_sources_and_warns_of_what_is_not_pinned(project):
    suite = suites.load("hub", root=project)
    assert list(suite.sources) == ["asr", "clip", "encoder"]
    asr, clip, encoder = suite.sources.values()
    assert (asr.hub, asr.revision, asr.memory) == ("owner/name", None, "0.6 GB")
    assert asr.place == "params/models/hub.yaml:4"
    assert [str(source) for source in suite.sources.values()] == [
        "owner/name@unpinned",
        "owner/clip@refs/pr/66",
        "models/encoder",
    ]
    assert (clip.ref, encoder.folder, encoder.is_pinned) == ("refs/pr/66", "models/encoder", True)
    assert suite.warnings == (
        "The role asr of suite hub is not pinned: owner/name is taken as it is on the hub today, "
        "and a later run may get other weights; pin it with `lab models pin hub`.",
        "The role clip of suite hub is not pinned: owner/clip is taken as it is on the hub today, "
        "and a later run may get other weights; pin it with `lab models pin hub`.",
    )
    write(project, HUB.replace("null", NEW))
    pinned = suites.load("hub", root=project)
    assert pinned.warnings == ()
    assert str(pinned.sources["asr"]) == "owner/name@abababababab"


def test_every_problem_is_told_at_once_with_its_line(project):
    text = problems(
        project,
        "roles:\n"
        "  vlm: {folder: a, hub: b/c, revision: null, memory: x}\n"
        "  asr: {folder: a, revision: null, memory: x}\n"
        "  clip: {hub: b/c, memory: x}\n"
        "  encoder:\n"
        "    hub: no-owner\n"
        "    revision: main\n"
        "    memori: x\n"
        "  ocr: {folder: a, memory: x}\n"
        "role: 1\n",
    )
    assert sorted(text.splitlines()) == [
        "params/models/mine.yaml:10: role: unknown key; did you mean roles?",
        "params/models/mine.yaml:2: roles.vlm: must name either a folder or a hub id",
        "params/models/mine.yaml:3: roles.asr: must not give a folder a revision or a ref; its "
        "digest tells it",
        "params/models/mine.yaml:4: roles.clip: must give a hub id its revision; write null until "
        "it is pinned",
        "params/models/mine.yaml:5: roles.encoder.memory: must be set, but is missing",
        "params/models/mine.yaml:6: roles.encoder.hub: must be owner/name as the hub has it, got "
        "'no-owner'",
        "params/models/mine.yaml:7: roles.encoder.revision: must be a commit hash of 40 hex "
        "digits, or null until pinned, got 'main'",
        "params/models/mine.yaml:8: roles.encoder.memori: unknown key; did you mean memory?",
        "params/models/mine.yaml:9: roles.ocr: unknown key; known: vlm, asr, clip, encoder",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "params/models/mine.yaml: roles: must be set, but is missing"),
        ("roles: {}", "mine.yaml:1: roles: must fill at least one of vlm, asr, clip, encoder"),
        ("roles: [vlm]", "mine.yaml:1: roles: must hold keys and values, got a list"),
        ("roles: {vlm: 3}", "mine.yaml:1: roles.vlm: must hold keys and values, got 3"),
        ("roles: {1: {}}", "roles.1: "),
        ("roles: {vlm: {folder: '', memory: x}}", "roles.vlm.folder: must be a text without"),
        ('roles: {vlm: {folder: "a\\0b", memory: x}}', "without control characters, got 'a\\x00b'"),
        ("roles: {vlm: {folder: a, memory: 3}}", "roles.vlm.memory: must be a valid string, got 3"),
        ("roles: {vlm: {folder: !x a, memory: x}}", "roles.vlm.folder: must be a valid string"),
        (
            f"roles: {{vlm: {{hub: a/b, revision: {'1' * 40}, memory: x}}}}",
            f"roles.vlm.revision: must be a valid string, got {'1' * 40}; quote it",
        ),
        (
            "roles: {vlm: {hub: a/b, revision: null, ref: ../x, memory: x}}",
            "roles.vlm.ref: must be a branch, a tag or refs/pr/N, got '../x'",
        ),
        ("roles: {vlm: {folder: a", "not valid YAML"),
        ("roles: {vlm: {folder: a, folder: b, memory: x}}", "not valid YAML"),
        (
            "a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\n"
            "e: &e [*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f]\n"
            "h: &h [*g,*g,*g,*g,*g,*g]\ni: &i [*h,*h,*h,*h,*h,*h]\n"
            "roles: {vlm: {folder: *i, memory: x}}",
            "roles.vlm.folder: must be a valid string, got a list",
        ),
    ],
)
def test_a_file_that_is_not_a_suite_is_told(project, text, expected):
    assert expected in problems(project, text)


@pytest.mark.parametrize(
    "name", ["a/b/c", "a", "/b", "a/", "a/b--c", "../b", "a/b.git", "a/b-", "ä/b"]
)
def test_a_hub_id_has_the_hubs_form(project, name):
    text = problems(project, f"roles: {{asr: {{hub: '{name}', revision: null, memory: x}}}}")
    assert "roles.asr.hub: must be owner/name as the hub has it" in text


def test_a_suite_that_there_is_not_is_told_with_a_hint(project):
    for name, hint in (("hob", "did you mean hub?"), ("../lab", "add its file to params/models")):
        with pytest.raises(UsageError, match="a suite must be one of hub, got") as caught:
            suites.load(name, root=project)
        assert hint in str(caught.value)


# --- pin -----------------------------------------------------------------------------------------


class Api:
    """Answers like HfApi for the repositories it knows; an exception is raised, as it would be."""

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def model_info(self, repo_id, *, revision=None):
        self.asked.append((repo_id, revision))
        answer = self.answers[repo_id.partition("/")[2]]
        if isinstance(answer, Exception):
            raise answer
        sha, files = answer if isinstance(answer, tuple) else (answer, ["model.safetensors"])
        return SimpleNamespace(sha=sha, siblings=[SimpleNamespace(rfilename=f) for f in files])


def test_a_pin_writes_what_the_hub_gave_and_nothing_else(project):
    path = project / "params" / "models" / "hub.yaml"
    path.chmod(0o640)
    api = Api(name=NEW, clip=OTHER)
    pins = suites.pin("hub", root=project, api=api)
    assert pins == [
        suites.Pin("asr", "owner/name", None, NEW),
        suites.Pin("clip", "owner/clip", None, OTHER),
    ]
    assert api.asked == [("owner/name", None), ("owner/clip", "refs/pr/66")]
    before, after = HUB.splitlines(), path.read_text("utf-8").splitlines()
    assert len(before) == len(after)
    assert [line for line in after if line not in before] == [
        f"    revision: {NEW} # not yet",
        f'  clip: {{hub: owner/clip, revision: {OTHER}, ref: refs/pr/66, memory: "1 GB"}} '
        "# pull request",
    ]
    assert path.stat().st_mode & 0o777 == 0o640
    assert suites.load("hub", root=project).warnings == ()


def test_what_is_pinned_is_asked_for_only_on_demand(project):
    path = write(project, HUB.replace("null", OLD))
    text = path.read_text()
    api = Api(name=NEW, clip=OLD)
    assert suites.pin("hub", root=project, api=api) == []
    assert (api.asked, path.read_text()) == ([], text)
    (pin,) = suites.pin("hub", root=project, api=api, update=True)
    assert (pin.role, pin.before, pin.after) == ("asr", OLD, NEW)
    suite = suites.load("hub", root=project)
    assert [suite.sources[role].revision for role in ("asr", "clip")] == [NEW, OLD]


def test_a_hash_of_digits_alone_stays_a_text(project):
    for sha in ("1" * 40, "1234567890" * 3 + "12345678e9"):
        write(project, HUB)
        suites.pin("hub", root=project, api=Api(name=sha, clip=NEW))
        assert suites.load("hub", root=project).sources["asr"].revision == sha


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            (NEW, ["pytorch_model.bin", "config.json"]),
            "a revision must hold safetensors, got 'owner/name at its default branch without any' "
            "(params/models/hub.yaml:4); set ref to a branch or pull request (refs/pr/N)",
        ),
        ("main", "the hub must give a commit hash, got 'main' (params/models/hub.yaml:4)"),
        (None, "the hub must give a commit hash, got None"),
        (
            ConnectionError("no route to host"),
            "the hub must deliver owner/name, got 'ConnectionError: no route to host' "
            "(params/models/hub.yaml:4); check the network, HF_ENDPOINT and the disk",
        ),
        (RuntimeError(), "got 'RuntimeError: no reason'"),
    ],
)
def test_what_cannot_be_resolved_is_told_and_left_as_it_was(project, answer, expected):
    asr, clip = suites.pin("hub", root=project, api=Api(name=answer, clip=NEW))
    assert expected in asr.problem
    assert (asr.after, clip.problem, clip.after) == (None, "", NEW)
    suite = suites.load("hub", root=project)
    assert (suite.sources["asr"].revision, suite.sources["clip"].revision) == (None, NEW)
    assert "revision: null     # not yet" in (project / "params/models/hub.yaml").read_text()


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_pinned(project, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    pins = suites.pin("hub", root=project)
    assert [pin.after for pin in pins] == [None, None]
    assert "the hub must be asked for a revision, got 'HF_HUB_OFFLINE or TRANS" in pins[0].problem
    assert (project / "params/models/hub.yaml").read_text("utf-8") == HUB


# --- folders -------------------------------------------------------------------------------------


def test_a_local_folder_is_found_or_told(project, tmp_path_factory):
    source = suites.load("hub", root=project).sources["encoder"]
    for ask in (suites.locate, suites.cached):
        with pytest.raises(MissingError) as caught:
            ask(source, root=project)
        assert str(caught.value) == (
            "the checkpoint of the role encoder must be a folder, got 'models/encoder' "
            "(params/models/hub.yaml:9); put it there, or correct the path"
        )
    (project / "models" / "encoder").mkdir(parents=True)
    assert suites.locate(source, root=project) == project / "models" / "encoder"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(project, HUB.replace("models/encoder", str(elsewhere)))
    source = suites.load("hub", root=project).sources["encoder"]
    assert suites.cached(source, root=project) == elsewhere


# --- the hub -------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one repository, owner/name, of FILES, and the errors of some others."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path.partition('?')[0]}")
        errors = {"gated": (403, "GatedRepo"), "none": (404, "RepoNotFound")}
        name = self.path.split("/")[4] if self.path.startswith("/api/models/owner/") else ""
        if OTHER in self.path:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif name in errors:
            code, kind = errors[name]
            self.answer(code, b"{}", {"X-Error-Code": kind})
        elif "/tree/" in self.path:
            listed = [
                {"type": "file", "path": path, "size": len(raw), "oid": oid(raw)}
                for path, raw in FILES.items()
            ]
            self.answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        elif name == "name":
            files = [{"rfilename": path} for path in FILES]
            info = {"id": "owner/name", "modelId": "owner/name", "sha": NEW, "siblings": files}
            self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif "/resolve/" in self.path:
            raw = FILES[self.path.rpartition("/")[2]]
            self.answer(200, raw, {"ETag": f'"{oid(raw)}"', "X-Repo-Commit": NEW})
        else:
            self.answer(500, b"{}", {})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, code, body, headers):
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def oid(raw):
    return hashlib.sha1(b"blob %d\0%b" % (len(raw), raw), usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(project, tmp_path, monkeypatch):
    """A hub on this machine, and an empty cache; gives what the hub was asked."""
    from huggingface_hub import constants

    asked = []
    handler = type("OwnHub", (Hub,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    at = f"http://127.0.0.1:{server.server_port}"
    template = f"{at}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", at)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def source(hub_id="owner/name", revision=None, ref=None):
    return suites.Source("asr", None, hub_id, revision, ref, "x", "params/models/hub.yaml:4")


def told(project, **given):
    with pytest.raises(MissingError) as caught:
        suites.locate(source(**given), root=project)
    return str(caught.value)


@pytest.mark.parametrize("revision", [None, NEW])
def test_only_what_is_wanted_is_downloaded_and_once(project, hub, monkeypatch, revision):
    assert suites.cached(source(revision=revision), root=project) is None
    assert hub == []
    folder = suites.locate(source(revision=revision), root=project)
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "spiece.model",
        "tokenizer.json",
        "vocab.txt",
    }
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    hub.clear()
    assert suites.locate(source(revision=revision), root=project) == folder
    assert not any("/resolve/" in line for line in hub)
    if revision:
        assert hub == []  # a commit does not change
    hub.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert suites.locate(source(revision=revision), root=project) == folder
    assert suites.cached(source(revision=revision), root=project) == folder
    assert hub == []


def test_the_hub_itself_is_asked_for_a_pin(project, hub):
    write(project, HUB.replace("owner/clip", "owner/none"))
    asr, clip = suites.pin("hub", root=project)
    assert (asr.after, asr.problem) == (NEW, "")
    assert clip.after is None
    assert clip.problem == (
        "a hub id must name a repository that can be seen, got 'owner/none' "
        "(params/models/hub.yaml:8); correct it; if it is private, `hf auth login`"
    )
    assert "GET /api/models/owner/none/revision/refs%2Fpr%2F66" in hub


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"hub_id": "owner/gated"},
            "the hub must grant access, got 'owner/gated' (params/models/hub.yaml:4); accept its "
            "terms on https://huggingface.co/owner/gated, then `hf auth login`",
        ),
        (
            {"hub_id": "owner/none", "revision": NEW},
            "a hub id must name a repository that can be seen, got 'owner/none' "
            "(params/models/hub.yaml:4); correct it; if it is private, `hf auth login`",
        ),
        (
            {"revision": OTHER},
            f"a revision must be a commit of owner/name, got '{OTHER}' "
            "(params/models/hub.yaml:4); correct it, or write null and pin it anew with "
            "`lab models pin`",
        ),
        (
            {"hub_id": "owner/broken"},
            "the hub must deliver owner/broken, got \"HfHubHTTPError: Server error '500 Internal",
        ),
    ],
)
def test_what_the_hub_refuses_is_told_by_one_message(project, hub, given, expected):
    text = told(project, **given)
    assert text.startswith(expected)
    assert "\n" not in text


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_the_hub_is_not_asked(project, hub, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert told(project, revision=NEW) == (
        "offline (HF_HUB_OFFLINE), a checkpoint must be in the local cache whole, got "
        f"'owner/name at {NEW}' (params/models/hub.yaml:4); run once with a network, bring the "
        "cache from another machine (HF_HOME), or name a local folder"
    )
    assert hub == []


def test_half_a_download_is_not_taken_for_a_whole_one(project, hub, monkeypatch):
    folder = suites.locate(source(revision=NEW), root=project)
    (folder / "tokenizer.json").unlink()
    assert suites.cached(source(revision=NEW), root=project) is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "must be in the local cache whole" in told(project, revision=NEW)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    suites.locate(source(revision=NEW), root=project)
    assert (folder / "tokenizer.json").is_file()


def test_a_network_that_is_down_is_told(project, hub, monkeypatch):
    import huggingface_hub

    def fail(*args, **given):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert told(project) == (
        "the hub must deliver owner/name, got 'OSError: [Errno 101] Network is unreachable' "
        "(params/models/hub.yaml:4); check the network, HF_ENDPOINT and the disk; or name a local "
        "folder"
    )


def test_what_the_digests_cache_is_called_is_no_tenants_name(root):
    assert suites.digest_cache(root).parent == root / ".cache"
    assert suites.digest_cache(root).name.startswith("_")

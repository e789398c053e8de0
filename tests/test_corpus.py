"""lab.corpus: fingerprints that tell, tables that are right, a cache that cannot lie."""

import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import NO_WEIGHTS
from PIL import Image
from test_media import jpeg, tone, wav
from test_validation import make_corpus

from lab import corpus, errors, media, params, readers, tenants, validation
from lab.errors import CorpusError, LabError, MissingError, PathError

ROOT = Path(__file__).parents[1]
SMALL = ("data.image_width=32", "data.image_height=32")


def make_project(root):
    """A project folder with the lab's own settings and one sound corpus."""
    shutil.copytree(ROOT / "params", root / "params", ignore=NO_WEIGHTS)
    make_corpus(root / "data" / "medical")
    return root


def resolve(root, *overrides):
    return params.load("medical", root=root, overrides=[*SMALL, *overrides])


@pytest.fixture
def root(tmp_path):
    return make_project(tmp_path / "project")


@pytest.fixture
def folder(root):
    return root / "data" / "medical"


def print_of(folder, cache):
    return corpus.fingerprint(folder, cache=cache)


def entries(root):
    return sorted((root / ".cache/medical/corpus").iterdir())


def age(folder, seconds=100):
    """Make every file look as if it had been written some time ago."""
    for path in folder.rglob("*"):
        status = path.lstat()
        times = (status.st_atime_ns, status.st_mtime_ns - seconds * 10**9)
        os.utime(path, ns=times, follow_symlinks=False)


# --- fingerprint ---------------------------------------------------------------------------------


def test_fingerprint_is_a_digest_and_holds_still(folder, tmp_path):
    first = print_of(folder, tmp_path / "a")
    assert first.startswith("sha256:")
    assert len(first) == 7 + 64
    assert print_of(folder, tmp_path / "a") == first
    assert print_of(folder, tmp_path / "another cache") == first


def test_fingerprint_goes_with_the_content_and_not_with_the_place_or_the_age(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    age(copy)
    assert print_of(copy, tmp_path / "a") == print_of(folder, tmp_path / "b")


def one_byte_of_an_image(folder):
    path = folder / "images/product2.jpg"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CHANGES = {
    "one byte of an image": one_byte_of_an_image,
    "one byte of a table": lambda folder: (folder / "faq.json").write_bytes(
        (folder / "faq.json").read_bytes().replace(b"faq", b"faq ") + b" "
    ),
    "a new file": lambda folder: (
        (folder / "audio/deep").mkdir() or (folder / "audio/deep/new.wav").write_bytes(b"")
    ),
    "a file less": lambda folder: (folder / "audio/query1.wav").unlink(),
    "a table less": lambda folder: (folder / "joint.json").unlink(),
    "another name": lambda folder: (folder / "audio/query1.wav").rename(folder / "audio/q.wav"),
    "a link for a file": lambda folder: (
        (folder / "audio/query1.wav").unlink()
        or (folder / "audio/query1.wav").symlink_to("query2.wav")
    ),
    "a pipe": lambda folder: os.mkfifo(folder / "images/pipe"),
    "a link for a folder": lambda folder: (
        (folder / "audio").rename(folder / "elsewhere")
        or (folder / "audio").symlink_to("elsewhere")
    ),
    "two files swapped": lambda folder: (
        (folder / "audio/query1.wav").rename(folder / "x")
        and (folder / "audio/query2.wav").rename(folder / "audio/query1.wav")
        and (folder / "x").rename(folder / "audio/query2.wav")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with_every_change(folder, tmp_path, change):
    cache = tmp_path / "cache"
    before = print_of(folder, cache)
    CHANGES[change](folder)
    after = print_of(folder, cache)
    assert after != before
    assert print_of(folder, tmp_path / "fresh") == after


def test_other_files_do_not_count(folder, tmp_path):
    before = print_of(folder, tmp_path)
    (folder / "README.txt").write_text("notes")
    (folder / "images").chmod(0o750)
    assert print_of(folder, tmp_path) == before


def test_a_file_changed_just_now_is_read_again_even_if_its_status_is_the_same(
    folder, tmp_path, monkeypatch
):
    """A racy change: same size, same times, same inode, within the clock's resolution."""
    status = os.lstat(folder / "faq.json")
    same = corpus._stamp(status)
    monkeypatch.setattr(corpus, "_stamp", lambda _: same)
    before = print_of(folder, tmp_path)
    content = (folder / "faq.json").read_bytes()
    (folder / "faq.json").write_bytes(content.replace(b"item", b"Item"))
    assert print_of(folder, tmp_path) != before


def test_unchanged_files_are_not_read_again(folder, tmp_path, monkeypatch):
    age(folder)
    monkeypatch.setattr(corpus, "_RACY_NS", -(10**12))  # change times cannot be set back
    before = print_of(folder, tmp_path)
    monkeypatch.setattr(corpus.media, "open_regular", None)
    assert print_of(folder, tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"folder": 1}', b'{"files": {}}', b"\xff"])
def test_damaged_stamps_are_not_believed(folder, tmp_path, content):
    before = print_of(folder, tmp_path)
    (tmp_path / "fingerprint.json").write_bytes(content)
    assert print_of(folder, tmp_path) == before


def test_stamps_of_another_folder_are_not_believed(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    one_byte_of_an_image(other)
    assert print_of(folder, tmp_path / "c") != print_of(other, tmp_path / "c")


def test_fingerprint_without_a_place_for_stamps(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert print_of(folder, tmp_path / "file" / "cache") == print_of(folder, tmp_path / "good")


def test_the_stamps_are_private_and_whole(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_RACY_NS", -(10**12))
    print_of(folder, tmp_path / "c")
    (stamps,) = (tmp_path / "c").iterdir()
    assert stamps.name == "fingerprint.json"
    assert stat.S_IMODE(stamps.stat().st_mode) == 0o600
    assert json.loads(stamps.read_bytes())["folder"] == str(folder)


def test_fingerprint_of_nothing(tmp_path):
    with pytest.raises(MissingError, match="a corpus must be a folder"):
        print_of(tmp_path / "nowhere", tmp_path)


def test_fingerprint_needs_nothing_heavy():
    code = (
        "import sys, lab.corpus, pathlib, tempfile\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "lab.corpus.fingerprint(folder, cache=folder / 'c')\n"
        "heavy = {'datasets', 'pyarrow', 'numpy', 'PIL', 'pandas', 'pydantic', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- tables --------------------------------------------------------------------------------------


def test_tables_hold_what_the_files_hold(root, folder):
    loaded = corpus.load(resolve(root))
    assert loaded.tenant == "medical"
    assert loaded.folder == folder
    assert loaded.problems == ()
    assert loaded.absent == ()
    assert dict(loaded.rows_read) == {"faq": 4, "images": 4, "speech": 2, "joint": 1}
    faq = loaded.tables["faq"]
    assert faq.column_names == [
        "row", "question", "answer", "language", "annotation", "group", "label"
    ]  # fmt: skip
    written = json.loads((folder / "faq.json").read_text())
    assert [
        {key: row[key] for key in ("question", "answer", "language", "annotation")} for row in faq
    ] == [{key: row[key] for key in row if key != "group"} for row in written]
    assert faq["row"][:] == [1, 2, 3, 4]
    assert faq["group"][:] == ["return", "return", "return", None]


def test_labels_are_classes_per_language(root):
    faq = corpus.load(resolve(root)).tables["faq"]
    label = faq.features["label"]
    assert label.names == ["zh/退货流程", "en/Return process", "ja/返品プロセス", "zh/库存查询"]
    assert faq["label"][:] == [0, 1, 2, 3]
    assert label.int2str(1) == "en/Return process"


def test_tables_carry_the_facts_of_their_files(root, folder):
    loaded = corpus.load(resolve(root))
    images, speech = loaded.tables["images"], loaded.tables["speech"]
    assert images["width"][:] == [32] * 4
    assert images["description"][1] == 'Red dress, "summer"'
    size = (folder / "images/product2.jpg").stat().st_size
    assert images["bytes"][3] == size
    assert images["dhash"][0] == images["dhash"][2] != images["dhash"][3]
    assert speech["duration_s"][:] == pytest.approx([0.1, 0.2])
    assert speech["sampling_rate"][:] == [16000, 16000]
    joint = loaded.tables["joint"]
    assert joint.column_names == [
        "row", "text", "image_path", "audio_path", "language", "answer", "group"
    ]  # fmt: skip
    with Image.open(loaded.media_path(joint[0]["image_path"])) as image:
        assert image.size == (32, 32)


def test_media_path_stays_inside(root):
    loaded = corpus.load(resolve(root))
    for path in ("../../params/lab.yaml", "/etc/passwd", "https://example.org/a.jpg"):
        with pytest.raises(PathError):
            loaded.media_path(path)


def test_absent_tables_are_named(root, folder):
    (folder / "images.csv").unlink()
    (folder / "joint.json").unlink()
    loaded = corpus.load(resolve(root))
    assert loaded.absent == ("images", "joint")
    assert sorted(loaded.tables) == ["faq", "speech"]


def test_tables_are_memory_mapped_private_files(root):
    loaded = corpus.load(resolve(root))
    (entry,) = entries(root)
    for name, table in loaded.tables.items():
        assert [Path(file["filename"]) for file in table.cache_files] == [entry / f"{name}.arrow"]
    for path in (root / ".cache/medical", root / ".cache/medical/corpus", entry):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_more_rows_than_a_batch(root, folder, monkeypatch):
    monkeypatch.setattr(corpus, "_BATCH_ROWS", 600)
    row = json.loads((folder / "faq.json").read_text())[0]
    rows = [{**row, "question": f"问题 {number}"} for number in range(2000)]
    (folder / "faq.json").write_text(json.dumps(rows))
    faq = corpus.load(resolve(root)).tables["faq"]
    assert faq["question"][:] == [row["question"] for row in rows]
    assert faq["row"][:] == list(range(1, 2001))


def test_progress_is_told(root):
    told = []
    corpus.load(resolve(root), progress=lambda *where: told.append(where))
    assert {stage for stage, _, _ in told} == {
        "faq.json",
        "images.csv",
        "speech.json",
        "joint.json",
    }
    assert all(done <= total for _, done, total in told)


# --- refusal and quarantine ----------------------------------------------------------------------


def spoil(folder):
    rows = json.loads((folder / "faq.json").read_text())
    rows[1]["language"] = "fr"
    rows[2]["answer"] = "<script>"
    (folder / "faq.json").write_text(json.dumps(rows))
    (folder / "images/product1.jpg").write_bytes(b"no image")


def test_a_corpus_with_problems_is_refused_with_counts_lines_and_remedy(root, folder):
    spoil(folder)
    for _ in range(2):  # the second time from the cache
        with pytest.raises(CorpusError) as caught:
            corpus.load(resolve(root))
        first, *lines = str(caught.value).splitlines()
        assert first == (
            f"a corpus must be without problems, got 5: not-jpeg 4, language 1 ({folder}); "
            "correct them (`lab data check medical` shows all), "
            "or set data.quarantine to true to go on without those rows"
        )
        assert lines[0].startswith("  faq.json:2: language: must be one of zh, en, ja, got 'fr';")
        assert len(lines) == 5


def test_at_most_twenty_lines_are_shown(root, folder):
    (folder / "faq.json").write_text(json.dumps([{}] * 30))
    with pytest.raises(CorpusError) as caught:
        corpus.load(resolve(root))
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[0].startswith("a corpus must be without problems, got 120: missing-field 120 (")
    assert lines[-1] == "  and 100 more"


def test_quarantine_leaves_out_bad_rows_and_keeps_the_problems(root, folder):
    spoil(folder)
    loaded = corpus.load(resolve(root, "data.quarantine=true"))
    assert {name: table["row"][:] for name, table in loaded.tables.items()} == {
        "faq": [1, 3, 4],
        "images": [4],
        "speech": [1, 2],
        "joint": [],
    }
    assert loaded.tables["faq"].features["label"].num_classes == 3
    assert dict(loaded.rows_read) == {"faq": 4, "images": 4, "speech": 2, "joint": 1}
    settings = resolve(root).settings
    assert (
        loaded.problems
        == corpus.check(folder, data=settings.data, languages=settings.languages).problems
    )
    again = corpus.load(resolve(root, "data.quarantine=true"))
    assert again.problems == loaded.problems


@pytest.mark.parametrize(
    "content",
    [b'[{"question": "a"', b"", b"[]", b'[{"question": "\xff"}]', b"{}", b"[[[[", b"[1] 2"],
)
def test_quarantine_does_not_cover_a_file_of_which_rows_are_lost(root, folder, content):
    (folder / "faq.json").write_bytes(content)
    with pytest.raises(CorpusError, match="quarantine leaves out single rows; these problems put"):
        corpus.load(resolve(root, "data.quarantine=true"))


def test_a_byte_order_mark_is_no_reason_to_leave_anything_out(root, folder):
    content = (folder / "faq.json").read_bytes()
    (folder / "faq.json").write_bytes(b"\xef\xbb\xbf" + content)
    with pytest.raises(CorpusError, match="got 1: bom 1"):
        corpus.load(resolve(root))
    loaded = corpus.load(resolve(root, "data.quarantine=true"))
    assert len(loaded.tables["faq"]) == 4
    assert [problem.kind for problem in loaded.problems] == ["bom"]


def test_a_table_of_which_no_row_is_left(root, folder):
    (folder / "speech.json").write_text("[1, 2]")
    loaded = corpus.load(resolve(root, "data.quarantine=true"))
    assert len(loaded.tables["speech"]) == 0
    assert loaded.tables["speech"].features["label"].names == []


def test_no_corpus(root, folder):
    shutil.rmtree(folder)
    with pytest.raises(MissingError, match="a corpus must be a folder"):
        corpus.load(resolve(root))


# --- cache ---------------------------------------------------------------------------------------


@pytest.fixture
def unread(monkeypatch):
    """Count how often the files are read instead of the cache."""
    scans = []
    original = corpus.Scan
    monkeypatch.setattr(
        corpus, "Scan", lambda *args, **named: scans.append(args) or original(*args, **named)
    )
    return scans


def test_the_second_load_reads_the_cache(root, unread):
    first = corpus.load(resolve(root))
    second = corpus.load(resolve(root))
    assert len(unread) == 1
    assert first.fingerprint == second.fingerprint
    assert first.tables["images"][:] == second.tables["images"][:]


def test_what_is_decisive_makes_another_entry(root, folder, unread):
    corpus.load(resolve(root))
    corpus.load(resolve(root, "data.quarantine=true", "checks.near_duplicates='<= 0.5'"))
    assert len(unread) == 1
    corpus.load(resolve(root, "data.max_field_chars=5000"))
    assert len(unread) == 2
    (folder / "images/product2.jpg").write_bytes(jpeg(seed=9))
    loaded = corpus.load(resolve(root))
    assert len(unread) == 3
    assert loaded.tables["images"]["bytes"][3] == len(jpeg(seed=9))


@pytest.mark.parametrize("module", [corpus, errors, media, readers, tenants, validation])
def test_another_version_of_our_own_source_makes_another_entry(
    root, unread, monkeypatch, tmp_path, module
):
    corpus.load(resolve(root))
    changed = tmp_path / "changed.py"
    changed.write_bytes(Path(module.__file__).read_bytes() + b"# changed")
    monkeypatch.setattr(module, "__file__", str(changed))
    corpus._source_digest.cache_clear()
    corpus.load(resolve(root))
    corpus._source_digest.cache_clear()
    assert len(unread) == 2
    assert len(entries(root)) == 2


def test_only_the_newest_entries_are_kept(root, folder):
    held = corpus.load(resolve(root))
    for chars in (4000, 5000, 6000):
        loaded = corpus.load(resolve(root, f"data.max_field_chars={chars}"))
    assert len(entries(root)) == 2
    assert held.tables["faq"]["row"][:] == [1, 2, 3, 4]  # removed, but still mapped
    assert loaded.tables["faq"]["row"][:] == [1, 2, 3, 4]


def test_what_a_killed_process_left_is_removed_when_it_is_old(root):
    waste = root / ".cache/medical/corpus/.building-old"
    fresh = root / ".cache/medical/corpus/.building-new"
    for left in (waste, fresh):
        left.mkdir(parents=True)
        (left / "faq.arrow").write_bytes(b"half")
    age(waste, seconds=10_000)
    os.utime(waste, (0, 0))
    corpus.load(resolve(root))
    assert not waste.exists()
    assert fresh.exists()


def test_a_stray_file_among_the_entries_harms_nothing(root):
    folder = root / ".cache/medical/corpus"
    folder.mkdir(parents=True)
    (folder / ".DS_Store").write_bytes(b"not ours")
    assert corpus.load(resolve(root)).absent == ()


def tear(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [tear, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["faq.arrow", "images.arrow", "manifest.json"])
def test_a_damaged_cache_is_written_anew(root, unread, damage, name):
    before = {key: table[:] for key, table in corpus.load(resolve(root)).tables.items()}
    (entry,) = entries(root)
    damage(entry / name)
    after = {key: table[:] for key, table in corpus.load(resolve(root)).tables.items()}
    assert after == before
    assert len(unread) == 2
    assert entries(root) == [entry]


def test_damaged_problems_are_written_anew(root, folder):
    spoil(folder)
    before = corpus.load(resolve(root, "data.quarantine=true")).problems
    (entry,) = entries(root)
    tear(entry / "problems.arrow")
    assert corpus.load(resolve(root, "data.quarantine=true")).problems == before


def test_a_copied_cache_is_still_good(root, unread, tmp_path):
    """Another inode and another time, the same content: the digests decide."""
    corpus.load(resolve(root))
    (entry,) = entries(root)
    shutil.copytree(entry, tmp_path / "copy")
    shutil.rmtree(entry)
    shutil.copytree(tmp_path / "copy", entry)
    age(entry)
    corpus.load(resolve(root))
    assert len(unread) == 1


def test_an_entry_that_cannot_be_opened_is_written_anew(root, unread):
    """Sealed, but by a writer with a fault: what counts is that it opens."""
    corpus.load(resolve(root))
    (entry,) = entries(root)
    (entry / "faq.arrow").write_bytes(b"not arrow")
    manifest = json.loads((entry / "manifest.json").read_bytes().partition(b"\n")[2])
    manifest["tables"]["faq"] |= corpus._seal(entry / "faq.arrow")
    (entry / "manifest.json").write_bytes(corpus._sealed(json.dumps(manifest).encode()))
    assert len(corpus.load(resolve(root)).tables["faq"]) == 4
    assert len(unread) == 2


def test_a_corpus_that_changes_while_it_is_read_is_refused(root, folder, monkeypatch):
    original = corpus._write_table

    def meddle(aside, form, scan):
        found = original(aside, form, scan)
        (folder / "faq.json").write_text("[]")
        return found

    monkeypatch.setattr(corpus, "_write_table", meddle)
    with pytest.raises(CorpusError, match="a corpus must not change while it is read"):
        corpus.load(resolve(root))
    assert entries(root) == []


@pytest.mark.parametrize("limit", [1, 2000])
def test_a_full_disk_gives_one_error_and_leaves_nothing_torn(root, limit):
    code = (
        "import resource, sys, pathlib, datasets\n"
        "from lab import corpus, params\n"
        "from lab.errors import LabError\n"
        f"settings = params.load('medical', root=pathlib.Path({str(root)!r}), "
        f"overrides={list(SMALL)!r})\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    corpus.load(settings)\n"
        "except LabError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("the cache must be writable, got 'File too large' (")
    assert line.endswith("; free some disk space")
    assert entries(root) == []
    assert corpus.load(resolve(root)).absent == ()


def test_a_cache_that_cannot_be_made(root):
    (root / ".cache").write_text("in the way")
    with pytest.raises(LabError, match=r"the cache must be writable, got .*; check the folder's"):
        corpus.load(resolve(root))


def load_in_a_process(root, at_once, results):
    at_once.wait()
    tables = corpus.load(resolve(root)).tables
    results.put({name: len(table) for name, table in tables.items()})


def test_two_processes_may_build_at_once(root):
    context = multiprocessing.get_context("spawn")
    at_once, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=load_in_a_process, args=(root, at_once, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [{"faq": 4, "images": 4, "speech": 2, "joint": 1}] * 2
    assert len(entries(root)) == 1


def test_an_entry_finished_by_another_first_stands(root, monkeypatch):
    original = corpus._put_in_place
    inodes = []

    def late(aside, target):
        if not inodes:
            shutil.copytree(aside, target)
            inodes.append((target / "faq.arrow").stat().st_ino)
        original(aside, target)

    monkeypatch.setattr(corpus, "_put_in_place", late)
    assert len(corpus.load(resolve(root)).tables) == 4
    (entry,) = entries(root)
    assert (entry / "faq.arrow").stat().st_ino == inodes[0]


def test_ctrl_c_leaves_nothing_behind(root, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corpus.load(resolve(root), progress=interrupt)
    assert entries(root) == []
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


def test_arrow_files_hold_the_declared_types(root):
    corpus.load(resolve(root))
    (entry,) = entries(root)
    with pa.memory_map(str(entry / "images.arrow")) as source, pa.ipc.open_stream(source) as stored:
        types = {field.name: str(field.type) for field in stored.schema}
    assert types["dhash"] == "uint64"
    assert types["row"] == "int32"
    assert types["label"] == "int64"


def test_a_corpus_of_wavs_alone_needs_no_images(root, folder):
    shutil.rmtree(folder / "images")
    for name in ("faq.json", "images.csv", "joint.json"):
        (folder / name).unlink()
    (folder / "audio/query1.wav").write_bytes(wav(tone(1.0)))
    loaded = corpus.load(resolve(root))
    assert loaded.tables["speech"]["duration_s"][0] == 1.0
    assert {form.table for form in validation.FORMS} - set(loaded.absent) == {"speech"}

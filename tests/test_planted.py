"""The analysis held to what was planted: recall and false alarms on whole demo corpora."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from lab import analysis, corpus, params, synthesis
from lab.params import Scale

pytestmark = pytest.mark.slow

# A near duplicate that differs in punctuation only is an exact one after normalisation.
CHECKS = {
    "near_duplicate": {"near_duplicates", "exact_duplicates"},
    "wrong_language": {"language_mismatch"},
    "mislabelled_image": {"label_mismatch"},
    "clipped_audio": {"audio_defects"},
    "silent_audio": {"audio_defects"},
}
TABLES = {"faq.json": "faq", "images.csv": "images", "speech.json": "speech"}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=["ecommerce", "education", "medical"])
def found(request, tmp_path_factory, root_folder):
    """The analysis of a corpus with a tenth of everything spoiled, and what was planted."""
    tenant = request.param
    folder = tmp_path_factory.mktemp(tenant) / "corpus"
    recipe = synthesis.Recipe(tenant, Scale(faq=900, images=200, speech=60, joint=5), 3, 0.05)
    synthesis.make(recipe, folder, jobs=1)
    resolved = params.load(tenant, overrides=[f"data.folder={folder}"], root=root_folder)
    data = corpus.load(resolved)
    result = analysis.analyse(
        data, settings=resolved.settings, seed=0, near_duplicate=0.8, worst_rows=20
    )
    return data, result, rows(folder, "defects.csv")


@pytest.fixture(scope="module")
def root_folder(tmp_path_factory):
    import shutil

    from conftest import ROOT

    folder = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "params", folder / "params")
    return folder


def test_at_least_95_of_100_planted_defects_are_found(found):
    _, result, planted = found
    flagged = defaultdict(set)
    for line in result.flagged.itertuples():
        flagged[line.table, line.row].add(line.check)
    missed = [
        one
        for one in planted
        if not CHECKS[one["kind"]] & flagged[TABLES[one["file"]], int(one["row"])]
    ]
    assert len(planted) > 60
    assert len(missed) <= 0.05 * len(planted), missed


def test_at_most_1_of_100_clean_rows_is_a_false_alarm(found):
    data, result, planted = found
    spoiled = {(TABLES[one["file"]], int(one["row"])) for one in planted}
    for table, dataset in data.tables.items():
        if table not in TABLES.values():
            continue
        item = "image_path" if table == "images" else "group"
        items = dict(zip(dataset["row"], dataset[item], strict=True))
        # What shares a group with a spoiled row lacks a language now, which is no false alarm.
        touched = {items[row] for name, row in spoiled if name == table}
        clean = {row for row, name in items.items() if name is None or name not in touched}
        clean -= {row for name, row in spoiled if name == table}
        alarms = {line.row for line in result.flagged.itertuples() if line.table == table} & clean
        # The original of a copy may be flagged in the copy's place: it is one of the pair.
        texts = dict(zip(dataset["row"], dataset["answer"], strict=True)) if table == "faq" else {}
        copied = {texts[row] for name, row in spoiled if name == table} if texts else set()
        alarms -= {row for row in alarms if texts.get(row) in copied}
        assert len(alarms) <= 0.01 * len(clean), (table, sorted(alarms))

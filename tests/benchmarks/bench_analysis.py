"""Time and peak memory of the data analysis on large FAQ tables.

    python tests/benchmarks/bench_analysis.py --rows 100000 300000 1000000

Writes varied rows in three languages, with some copies and contradictions, to a temporary folder,
lets lab.corpus build its Arrow cache there, and runs the analysis in a fresh process for each size.
Prints a line per size; linear time shows as constant rows/s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

_SYLLABLES = {
    "zh": "红蓝绿白黑金银铜铁木石水火风云山海湖河桥门窗桌椅灯笔纸书表鞋帽衣裤袜包箱瓶杯",
    "en": ("ka", "lo", "mi", "tra", "ven", "sol", "pir", "dun", "gar", "hel", "ost", "bri", "nax"),
    "ja": "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモラリルレロ",
}
_QUESTIONS = {
    "zh": (
        "{a}和{b}坏了怎么退货？",
        "买了{a}，能换成{b}吗？",
        "{a}配{b}，多久发货？",
        "请问{a}和{b}有优惠吗？",
    ),
    "en": (
        "How do I return the {a} with the {b}?",
        "Can I swap my {a} for a {b}?",
        "When will the {a} and the {b} ship?",
        "Is there a discount on the {a} and the {b}?",
    ),
    "ja": (
        "{a}と{b}の返品方法を教えてください。",
        "{a}を{b}に交換できますか？",
        "{a}と{b}はいつ発送されますか？",
        "{a}と{b}の割引はありますか？",
    ),
}
_ANSWERS = {
    "zh": "请在订单页面找到{a}，选择{b}旁边的售后按钮，并在{n}天之内提交申请。",
    "en": "Open the order of the {a}, choose service next to the {b} and apply within {n} days.",
    "ja": "注文ページで{a}を開き、{b}の横にある手続きボタンから{n}日以内にお申し込みください。",
}
_CLASSES = {"zh": "售后{k}类", "en": "Service {k}", "ja": "サポート{k}"}


def faq_rows(count: int, *, seed: int) -> Iterator[dict[str, str]]:
    """Yield rows: groups of three languages, every 100th group followed by a near copy."""
    rng = np.random.default_rng(seed)
    made = 0
    group = 0
    while made < count:
        numbers = rng.integers(0, 2**31, size=8).tolist()
        for language in ("zh", "en", "ja"):
            parts = _SYLLABLES[language]
            words = [
                "".join(parts[(number >> (5 * at)) % len(parts)] for at in range(3))
                for number in numbers[:2]
            ]
            filling = {"a": words[0], "b": words[1], "n": numbers[2] % 60 + 1}
            row = {
                "question": _QUESTIONS[language][numbers[3] % 4].format(**filling),
                "answer": _ANSWERS[language].format(**filling),
                "language": language,
                "annotation": _CLASSES[language].format(k=numbers[4] % 40 + 1),
            }
            yield {**row, "group": f"group-{group:07d}"}
            made += 1
            if group % 100 == 0 and made < count:
                at = 2 + numbers[5] % 4
                yield row | {"question": row["question"][:at] + row["question"][at + 1 :]}
                made += 1
            if made == count:
                return
        group += 1


def make_project(root: Path, rows: int) -> None:
    """Write a project folder with one tenant, ``bench``."""
    (root / "params" / "tenants").mkdir(parents=True)
    shutil.copy(ROOT / "params" / "lab.yaml", root / "params" / "lab.yaml")
    (root / "params" / "tenants" / "bench.yaml").write_text("data: {max_rows: 10000000}\n")
    folder = root / "data" / "bench"
    folder.mkdir(parents=True)
    with (folder / "faq.json").open("w", encoding="utf-8") as file:
        for number, row in enumerate(faq_rows(rows, seed=0)):
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")


def in_child(root: Path, stage: str) -> dict[str, float]:
    """Run one stage in a fresh process and return what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "--stage", stage, "--root", str(root)],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def run_stage(root: Path, stage: str) -> dict[str, float]:
    """Load the corpus, and analyse it; seconds are those of the stage itself."""
    from lab import corpus, params

    resolved = params.load("bench", profile="full", root=root)
    started = time.perf_counter()
    loaded = corpus.load(resolved)
    measured: dict[str, float] = {}
    if stage == "analyse":
        from lab.analysis import analyse

        started = time.perf_counter()
        parameters = resolved.settings.notebooks["01_data_analysis"]
        found = analyse(loaded, settings=resolved.settings, seed=0, **parameters)
        measured["flagged"] = len(found.flagged)
    measured["seconds"] = time.perf_counter() - started
    measured["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return measured


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure each size and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--stage", choices=("load", "analyse"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        say(json.dumps(run_stage(given.root, given.stage)))
        return
    say("rows         load s   analyse s     rows/s   peak MB   findings")
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            make_project(Path(folder), rows)
            load = in_child(Path(folder), "load")
            found = in_child(Path(folder), "analyse")
        say(
            f"{rows:<10} {load['seconds']:8.1f} {found['seconds']:11.1f} "
            f"{rows / found['seconds']:10.0f} {found['peak_mb']:9.0f} {found['flagged']:10.0f}"
        )


if __name__ == "__main__":
    main()

"""Results as a Parquet table, for those who go on with them elsewhere: a row for each, all of it.

Owns the columns and how the file is written. Knows nothing of where results are kept.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lab.errors import LedgerError, MissingError, UsageError, message
from lab.files import replacing
from lab.trials import Block, Quality, TrialResult

_TEXT, _WHOLE, _NUMBER, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_BLOCK = pa.struct(
    {
        "number": _WHOLE,
        "latencies_s": pa.list_(_NUMBER),  # infinite without an answer
        "seconds": _NUMBER,
        "tokens_out": _WHOLE,
        "disturbed": _TEXT,
    }
)
_SCORE = pa.struct({"metric": _TEXT, "numerator": _NUMBER, "denominator": _NUMBER})
_QUALITY = pa.struct(
    {
        "item": _TEXT,
        "group": _TEXT,
        "language": _TEXT,
        "scores": pa.list_(_SCORE),
        "agreement": _NUMBER,
    }
)
SCHEMA = pa.schema(
    {
        **dict.fromkeys(("key", "tenant", "kind", "suite", "quantization", "pruning"), _TEXT),
        "sparsity": _NUMBER,
        "batch_size": _WHOLE,
        **dict.fromkeys(("dtype", "attention"), _TEXT),
        **dict.fromkeys(("compiled", "static_cache"), _FLAG),
        **dict.fromkeys(("items", "seed", "turns"), _WHOLE),
        "rate": _NUMBER,
        **dict.fromkeys(("status", "problem", "finished"), _TEXT),
        **dict.fromkeys(("load_s", "first_request_s"), _NUMBER),
        **dict.fromkeys(("stored_bytes", "loaded_bytes", "peak_bytes"), _WHOLE),
        # Of the blocks that were not disturbed; null if there is none.
        **dict.fromkeys(("requests", "errors"), _WHOLE),
        **dict.fromkeys(("latency_p50_s", "throughput_p50"), _NUMBER),
        **dict.fromkeys(
            ("data", "code", "hardware", "software", "settings", "partner", "answers"), _TEXT
        ),
        **dict.fromkeys(("models", "environment"), _TEXT),  # JSON
        "blocks": pa.list_(_BLOCK),
        "baseline": pa.list_(_BLOCK),
        "quality": pa.list_(_QUALITY),
    }
)
_ROWS = 100  # written together; so many are in memory at a time


def flat(result: TrialResult) -> dict[str, Any]:
    """Return a result as a row, a value for each column of `SCHEMA`.

    Nothing is lost but lone surrogates, which Parquet lacks: they are written as their escapes.
    """
    trial, setting = vars(result.trial), vars(result.setting)
    row = {**trial, **vars(result.trial.runtime), **setting, **vars(result)}
    row |= _figures([block for block in result.blocks if not block.disturbed])
    row["models"], row["environment"] = _json(setting["models"]), _json(result.environment)
    for name in ("blocks", "baseline"):
        blocks = getattr(result, name)
        row[name] = [{**vars(one), "disturbed": _text(one.disturbed)} for one in blocks]
    row["quality"] = [_quality(one) for one in result.quality]
    return {name: _text(row[name]) for name in SCHEMA.names}


def write(results: Iterable[TrialResult], path: Path) -> int:
    """Write results to a Parquet file, whole or not at all; return how many.

    Args:
        results: read as they are written, so that they need not fit into memory.
        path: replaced if it is there; ends in .parquet, so that nothing else is by mistake.
    Raises: UsageError for another ending, MissingError if its folder is not there, LedgerError if
        there is no result or the file cannot be written; what was there stands then.
    """
    if path.suffix != ".parquet":
        raise UsageError(message("an export must end in .parquet", got=path.name))
    if not path.parent.is_dir():
        raise MissingError(
            message("an export needs a folder", got=str(path.parent), remedy="make it")
        )
    count = 0
    rows = map(flat, results)
    try:
        with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as parquet:
            while some := list(itertools.islice(rows, _ROWS)):
                parquet.write_table(pa.Table.from_pylist(some, SCHEMA))
                count += len(some)
            if not count:
                raise LedgerError("there are no results to export, and no file was written")
    except (OSError, OverflowError, pa.ArrowException) as error:
        raise LedgerError(
            message(
                "could not write the export",
                got=getattr(error, "strerror", None) or str(error),
                place=str(path),
                remedy="see whether the folder may be written to and has room",
            )
        ) from error
    return count


def _figures(blocks: list[Block]) -> dict[str, float | None]:
    """Return what the blocks show; medians as `lab.stats` defines them, the lower of two."""
    latencies = [latency for block in blocks for latency in block.latencies_s]
    rates = [block.throughput for block in blocks if not math.isnan(block.throughput)]
    return {
        "requests": len(latencies) if blocks else None,
        "errors": sum(block.errors for block in blocks) if blocks else None,
        "latency_p50_s": statistics.median_low(latencies) if latencies else None,
        "throughput_p50": statistics.median_low(rates) if rates else None,
    }


def _quality(one: Quality) -> dict[str, Any]:
    scores = [
        {"metric": _text(name), "numerator": top, "denominator": bottom}
        for name, (top, bottom) in one.scores.items()
    ]
    names = {name: _text(getattr(one, name)) for name in ("item", "group", "language")}
    return {**names, "scores": scores, "agreement": one.agreement}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _text(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value

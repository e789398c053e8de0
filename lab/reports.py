"""Reports: an executed notebook as one HTML page.

Owns what a reader sees: verdict first, contents, cells, where it comes from, how to make it again.
Knows nothing of how notebooks are run (``lab.execute``) or of what their figures mean.
"""

from __future__ import annotations

import ast
import base64
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from lab import pages, slo
from lab.errors import printable
from lab.markup import (
    Heading,
    first_heading,
    markdown,
    preformatted,
    sanitised,
    terminal,
    visible,
)

if TYPE_CHECKING:
    from markupsafe import Markup
    from nbformat import NotebookNode

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PIXEL_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_PARAMETER_TAGS = ("parameters", "injected-parameters")
_CONCLUSION_TAG = "conclusion"
_MAX_STREAM_CHARS = 20_000  # shown of one cell's printed text; the notebook has the rest


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook: its value as code, the comment beside it, who set it."""

    name: str
    value: str
    meaning: str = ""
    injected: bool = False


@dataclass
class _Cell:
    """One cell, ready to be put on the page; all Markup."""

    anchor: str
    kind: Literal["markdown", "code"]
    body: Markup
    count: int | None = None
    outputs: list[Markup] = field(default_factory=list)
    failed: bool = False


def render(
    notebook: NotebookNode,
    *,
    record: Mapping[str, Any],
    reproduce: str,
    title: str = "",
    notes: Sequence[str] = (),
    last_good: str | None = None,
) -> str:
    """Return the report of an executed notebook as one HTML page.

    Args:
        notebook: nbformat 4, as far as it was executed. Cells tagged ``parameters`` become a
            table; what cells tagged ``conclusion`` show also stands below the verdict.
        record: what goes into its metrics.json; ``error`` tells why a failed run failed.
        reproduce: the command that makes this report again.
        title: of the page; the notebook's first heading if not given.
        notes: what a reader must know beside the verdict, such as rows left out.
        last_good: file name, in the same folder, of the last good report.
    """
    headings: list[Heading] = []
    cells: list[_Cell] = []
    parameters: dict[str, Parameter] = {}
    conclusions: list[Markup] = []
    title = title or _first_heading(notebook) or pages.title(str(record.get("notebook", "")))
    failed_at = None if record.get("status") == "ok" else _failing_cell(notebook)
    for index, source in enumerate(notebook.cells):
        anchor = f"cell-{index + 1}"
        tags = source.metadata.get("tags", [])
        if source.cell_type == "markdown":
            html = markdown(_joined(source.source), headings, title=title)
            cells.append(_Cell(anchor, "markdown", html))
            continue
        if source.cell_type != "code" or not _joined(source.source).strip():
            continue
        found = _parameters(_joined(source.source)) if _is_parameters(tags) else None
        if found is not None:
            for name, value, meaning in found:
                before = parameters.get(name)
                parameters[name] = Parameter(
                    name,
                    value,
                    meaning or (before.meaning if before else ""),
                    injected="injected-parameters" in tags,
                )
            if index != failed_at:
                continue
        outputs = list(_outputs(source.get("outputs", [])))
        if _CONCLUSION_TAG in tags:
            conclusions += outputs
        cells.append(
            _Cell(
                anchor,
                "code",
                _code(_joined(source.source)),
                source.get("execution_count"),
                outputs,
                failed=index == failed_at,
            )
        )
    metrics = pages.metric_records(record)
    ok = record.get("status") == "ok"
    return pages.template("report.html").render(
        title=title,
        record=record,
        ok=ok,
        state=pages.state(metrics) if ok else "failed run",
        explanation=pages.explained(metrics) if ok else "The notebook did not finish: no verdict.",
        error=preformatted(str(record.get("error", ""))),
        failed_anchor=f"cell-{failed_at + 1}" if failed_at is not None else None,
        last_good=quote(last_good) if last_good else None,
        judged=_figures(metrics, with_limit=True) if ok else None,
        unjudged=_figures(metrics, with_limit=False) if ok else None,
        notes=notes,
        conclusions=conclusions,
        headings=headings,
        cells=cells,
        parameters=list(parameters.values()),
        provenance=_provenance(record),
        started=pages.timestamp(record.get("started")),
        took=_duration(record.get("seconds")),
        reproduce=preformatted(reproduce),
    )


def _first_heading(notebook: NotebookNode) -> str:
    """Return the text of the notebook's first heading, or an empty text."""
    texts = (first_heading(_joined(c.source)) for c in notebook.cells if c.cell_type == "markdown")
    return next((text for text in texts if text is not None), "")


def _figures(metrics: Sequence[Mapping[str, Any]], *, with_limit: bool) -> Markup | None:
    chosen = [metric for metric in metrics if (metric.get("verdict") is not None) == with_limit]
    caption = "Figures with a limit" if with_limit else "Figures without a limit"
    return pages.figures(chosen, caption=caption)


def _joined(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _is_parameters(tags: Iterable[str]) -> bool:
    return any(tag in _PARAMETER_TAGS for tag in tags)


def _failing_cell(notebook: NotebookNode) -> int | None:
    """Return where a failed run stopped: the first error, else the last cell that was begun."""
    codes = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for index, cell in codes:
        if any(output.get("output_type") == "error" for output in cell.get("outputs", [])):
            return index
    begun = [index for index, cell in codes if cell.get("execution_count") is not None]
    return begun[-1] if begun else (codes[0][0] if codes else None)


def _parameters(source: str) -> list[tuple[str, str, str]] | None:
    """Return (name, value, comment) of each assignment, or None if there is more in the cell."""
    try:
        body = ast.parse(source).body
        comments = {
            token.start[0]: token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = []
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            return None
        if not isinstance(target, ast.Name):
            return None
        code = ast.get_source_segment(source, value) or ast.unparse(value)
        found.append((target.id, code, comments.get(statement.end_lineno or 0, "")))
    return found


def _code(source: str) -> Markup:
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    # Pygments escapes what it marks up.
    html = highlight(visible(source), PythonLexer(), HtmlFormatter(nowrap=True))
    return Markup(html.rstrip())  # noqa: S704


def _outputs(outputs: Iterable[Mapping[str, Any]]) -> Iterator[Markup]:
    """Yield what a cell showed; printed text comes last, in one piece per stream."""
    printed = {"stdout": "", "stderr": ""}
    for output in outputs:
        kind = output.get("output_type")
        if kind == "stream":
            name = "stderr" if output.get("name") == "stderr" else "stdout"
            printed[name] += _joined(output.get("text", ""))
        elif kind == "error":
            yield _traceback(output)
        elif kind in ("display_data", "execute_result"):
            shown = _shown(output)
            if shown is not None:
                yield shown
    template = pages.template("stream.html")
    for name, text in printed.items():
        if not text.strip():
            continue
        lines = terminal(text)
        yield template.module.stream(
            folded=name == "stderr",
            text=preformatted(lines[:_MAX_STREAM_CHARS]),
            lines=lines.rstrip("\n").count("\n") + 1,
            left_out=max(0, len(lines) - _MAX_STREAM_CHARS),
        )


def _shown(output: Mapping[str, Any]) -> Markup | None:
    """Return the richest form of an output that needs no script."""
    from markupsafe import Markup

    data = {name: output["data"][name] for name in output.get("data", {})}
    if slo.MIME in data:
        count = len(
            pages.metric_records(data[slo.MIME]) if isinstance(data[slo.MIME], dict) else []
        )
        text = f"{count} figures, held against their limits at the top of this page: "
        return Markup('<p class="handed-over">{}<a href="#verdict">Verdict</a></p>').format(text)
    if "text/html" in data:
        html = sanitised(_joined(data["text/html"]))
        if html.strip():
            return Markup(f'<div class="html-output">{html}</div>')  # noqa: S704 (sanitised)
    for mime in ("image/svg+xml", *_PIXEL_IMAGES):
        if mime in data:
            image = _image(mime, _joined(data[mime]), output.get("metadata", {}))
            if image is not None:
                return image
    if "text/markdown" in data:
        return markdown(_joined(data["text/markdown"]), None)
    if "text/plain" in data:
        return Markup('<pre class="scroll" tabindex="0">{}</pre>').format(
            preformatted(terminal(_joined(data["text/plain"]))[:_MAX_STREAM_CHARS])
        )
    return None


def _image(mime: str, content: str, metadata: Mapping[str, Any]) -> Markup | None:
    from markupsafe import Markup

    if mime == "image/svg+xml":  # as an image a browser runs nothing of it and loads nothing
        content = base64.b64encode(content.encode("utf-8", "replace")).decode("ascii")
    content = "".join(content.split())
    if not _BASE64.fullmatch(content):
        return None
    own = metadata.get(mime)
    alt = (own.get("alt") if isinstance(own, Mapping) else None) or "Image without a description"
    return Markup(
        '<figure class="lab-figure"><img src="data:{};base64,{}" alt="{}"></figure>'
    ).format(mime, content, printable(str(alt)))


def _traceback(output: Mapping[str, Any]) -> Markup:
    from markupsafe import Markup

    lines = output.get("traceback") or []
    text = "\n".join(map(str, lines)) if not isinstance(lines, str) else lines
    text = text or f"{output.get('ename', 'Error')}: {output.get('evalue', '')}"
    return Markup(
        '<pre class="traceback scroll" role="region" tabindex="0" aria-label="Traceback">{}</pre>'
    ).format(preformatted(terminal(text)))


def _provenance(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return (what, value) for the provenance table; a value may be a mapping of its own."""
    rows: list[tuple[str, Any]] = [
        (name, record[name]) for name in ("tenant", "notebook", "profile") if name in record
    ]
    provenance = record.get("provenance")
    if isinstance(provenance, Mapping):
        rows += [(pages.words(str(name)), value) for name, value in provenance.items()]
    if "run_key" in record:
        rows.append(("run key", record["run_key"]))
    return [(name, value if value not in ("", {}, None) else "none") for name, value in rows]


def _duration(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        return ""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(min(seconds, 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

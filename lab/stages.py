"""A workflow, followed for tenants: what their corpora have, and node after node what is reached.

Owns when a node counts as completed, and what is told on the way. Knows nothing of what a workflow
means (``lab.nodes``) or how notebooks are run: whoever calls carries out what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import params, validation
from lab.errors import MissingError, ParameterError
from lab.nodes import TABLES, Modality, Override, Workflow
from lab.params import Resolved
from lab.trials import Kind

Asked = Mapping[tuple[str, str], tuple[Override, ...]]  # (tenant, notebook) -> settings it gets
Name = tuple[str, str]  # of a tenant and of a notebook


@dataclass(frozen=True)
class Found:
    """A tenant, as a workflow finds it.

    Attributes:
        resolved: its settings.
        tables: of the corpus, that hold at least one sound row.
        unsound: tables that are there without one.
        problem: why there is no corpus to look at; empty if there is.
    """

    resolved: Resolved
    tables: tuple[str, ...] = ()
    unsound: tuple[str, ...] = ()
    problem: str = ""

    @property
    def slug(self) -> str:
        """Of the tenant."""
        return self.resolved.tenant.slug

    @property
    def present(self) -> set[Modality]:
        """The modalities that the corpus holds."""
        return {one for one, tables in TABLES.items() if set(tables) & set(self.tables)}


@dataclass
class Course:
    """What became of a workflow.

    Attributes:
        asked: every notebook that was led to, and with what.
        failed: those that did not end well, and (tenant, "") for a tenant without corpus.
        completed: tenant -> nodes.
        idle: tenants for which no rule fired.
    """

    asked: dict[Name, tuple[Override, ...]] = field(default_factory=dict)
    failed: set[Name] = field(default_factory=set)
    completed: dict[str, list[str]] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)


def examine(
    workflow: Workflow,
    tenants: Sequence[str],
    *,
    profile: str,
    overrides: Sequence[str],
    root: Path,
) -> list[Found]:
    """Hold tenants' settings against a workflow's inputs, and look what their corpora have.

    Raises: ParameterError that lists every contradiction of every tenant; as `params.load`.
    """
    every = [
        params.load(tenant, profile=profile, overrides=overrides, root=root) for tenant in tenants
    ]
    if problems := [text for resolved in every for text in workflow.problems(resolved)]:
        raise ParameterError("\n".join(problems))
    return [_look(resolved) for resolved in every]


def follow(
    workflow: Workflow,
    found: Sequence[Found],
    *,
    carry_out: Callable[[Asked], Collection[Name]],
    tell: Callable[[str], None],
) -> Course:
    """Go through the nodes, each after those that its rules wait for, for all tenants at a time.

    Args:
        workflow: whose rules decide.
        found: the tenants.
        carry_out: runs notebooks; returns those that did not end well.
        tell: is given a line for whatever is decided.
    """
    course = Course(completed={one.slug: [] for one in found})
    fired: set[str] = set()
    for one in found:
        tell(f"{one.slug}: {_has(one)}")
        if one.problem:
            course.failed.add((one.slug, ""))
    there = [one for one in found if not one.problem]
    for step in workflow.steps:
        asked: dict[Name, tuple[Override, ...]] = {}
        through = []
        for one in there:
            done = course.completed[one.slug]
            if not workflow.reached(step, present=one.present, completed=done):
                tell(f"{one.slug}: {step} is not reached: {_unmet(workflow, step)}")
                continue
            fired.add(one.slug)
            kinds: list[Kind] = workflow.kinds(one.tables)
            if problem := workflow.obstacle(step, kinds=kinds):
                tell(f"{one.slug}: {step} is reached, but {problem}")
                continue
            books = workflow.notebooks(step, one.resolved.settings, kinds=kinds)
            tell(f"{one.slug}: {step} leads to {', '.join(books) or 'no notebook'}")
            asked |= {(one.slug, book): _unless_typed(one, given) for book, given in books.items()}
            through.append(one.slug)
        failed = set(carry_out(asked)) if asked else set()
        course.asked |= asked
        course.failed |= failed
        for slug in through:
            if not any(tenant == slug for tenant, _ in failed):
                course.completed[slug].append(step)
    course.idle = [one.slug for one in there if one.slug not in fired]
    for slug in course.idle:
        tell(f"{slug}: no rule fires, so nothing is run")
    return course


def _unless_typed(one: Found, given: tuple[Override, ...]) -> tuple[Override, ...]:
    """Leave out what the command line sets, which comes after all files."""
    return tuple(each for each in given if one.resolved.origins.get(each.key) != "--set")


def _look(resolved: Resolved) -> Found:
    settings = resolved.settings
    try:
        scan = validation.Scan(
            resolved.data_folder, data=settings.data, languages=settings.languages
        )
    except MissingError as error:
        return Found(resolved, problem=str(error))
    sound = {form.table: any(window for window in scan.sound_rows(form)) for form in scan.present}
    return Found(
        resolved,
        tables=tuple(table for table, there in sound.items() if there),
        unsound=tuple(table for table, there in sound.items() if not there),
    )


def _has(one: Found) -> str:
    if one.problem:
        return one.problem
    text = f"the corpus has {', '.join(one.tables) or 'nothing'}"
    if one.unsound:
        text += f"; no sound row in {', '.join(one.unsound)}, see lab data check {one.slug}"
    return text


def _unmet(workflow: Workflow, step: str) -> str:
    texts = [rule.text for rule in workflow.rules if rule.next_node == step]
    return f"{' and '.join(texts)} {'is' if len(texts) == 1 else 'are'} not met"

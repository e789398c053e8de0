"""Sweeps: the studies of a notebook, one after the other, each result kept.

Owns where studies are measured. Knows nothing of what is in a study.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab import studies
from lab.ledger import Ledger
from lab.studies import Progress
from lab.trials import TrialResult

if TYPE_CHECKING:
    from lab.corpus import Corpus
    from lab.designs import Design
    from lab.params import Resolved


def run(
    design: Design, resolved: Resolved, *, corpus: Corpus, progress: Progress
) -> list[list[TrialResult]]:
    """Return the results of each study; only what the ledger does not know is measured.

    Args:
        design: studies of the tenant.
        resolved: the tenant's settings.
        corpus: the tenant's.
        progress: called with (stage, done, total).
    Raises: as lab.studies.run.
    """
    root = resolved.tenant.root

    def of(number: int) -> Progress:
        where = f"study {number + 1} of {len(design.studies)}: " if len(design.studies) > 1 else ""
        return lambda stage, done, total: progress(f"{where}{stage}", done, total)

    with Ledger(resolved.settings.ledger, root=root) as ledger:
        return [
            studies.run(
                study,
                corpus=corpus,
                settings=resolved.settings,
                folders=design.folders,
                digests=design.digests,
                ledger=ledger,
                progress=of(number),
            )
            for number, study in enumerate(design.studies)
        ]

"""Whether the lab times what it says it times, and what its own code costs a request.

    python tests/benchmarks/bench_overhead.py --root . --threads 1

The demo suite's answering model, medical tenant, text, greedy, as many new tokens as its usual
answer has, batches of 1 and of 8, one process, one copy of the weights. In every block four ways of
answering the same requests take turns, in a random order and then the other way:

- *bare*: a plain loop that applies the chat template, tokenizes, calls ``model.generate`` and
  decodes, with a clock around each batch; nothing of the lab's.
- *bare, again*: the same as if it were another (A/A), which gives the noise floor.
- *lab*: ``measurement.closed_loop`` around ``Service.ask``, as a study times a configuration.
- *lab, clocked*: the same with a clock in those four calls as well.

Claim 1: the lab's p50 over the bare loop's (geometric mean of the blocks' ratios) is within the
floor. Claim 2: the overhead is at most 1 % of the time. Overhead is whatever of a block of *lab,
clocked* was spent outside those four calls, the clocks' own cost included: the loop, checks,
sorting, counting tokens, wrapping answers. Of the chat template one call for each request is what
the bare loop needs too; further ones are overhead. What a study does between blocks, where no
request waits (looking at what disturbs the machine), is not part of it.

A claim holds, fails (exit code 1), or is not settled: fewer than 10 blocks without a disturbance
(then the figures are those of all blocks), or an interval with 1 % inside.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from lab import corpus, locks, machine, measurement, params, requests, services, stats
from lab.queries import Generation
from lab.requests import Request
from lab.services import Service
from lab.trials import Block, Trial

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"vlm": ROOT / "params" / "models" / "demo" / "vlm"}
WAYS = ("bare", "bare, again", "lab", "lab, clocked")
LIMIT = 0.01  # of a request's time
TOO_FEW = "too few blocks without a disturbance"
TIMES = 2  # that a disturbed block is measured, at most

Clocked = tuple[Block, float]  # and of it the seconds outside the four calls


@dataclass(frozen=True)
class Work:
    """What every way of answering is given."""

    service: Service
    asked: Sequence[Request]
    batch_size: int
    tokens: int

    @property
    def generation(self) -> Generation:
        """Fixed work, as in a study."""
        return Generation(least=self.tokens, most=self.tokens)

    def of_block(self, number: int, batches: int) -> list[Request]:
        """Return a block's requests: whole batches, others in the next block."""
        count = batches * self.batch_size
        return [self.asked[(number * count + at) % len(self.asked)] for at in range(count)]


# --- the bare loop: nothing of the lab's ----------------------------------------------------------


def answer_bare(
    model: Any, processor: Any, talks: Sequence[list[dict[str, Any]]], tokens: int
) -> list[str]:
    """Answer one batch as any script would."""
    texts = [
        processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        for talk in talks
    ]
    inputs = processor(text=texts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    out = model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    written = out[:, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.batch_decode(written, skip_special_tokens=True)


def talk_of(request: Request) -> list[dict[str, Any]]:
    """Return a request as a conversation."""
    talk = [{"role": "user", "content": request.query.text}]
    if request.query.system:
        talk.insert(0, {"role": "system", "content": request.query.system})
    return talk


def time_bare(work: Work, number: int, some: Sequence[Request]) -> Block:
    """Time a block of the bare loop with a clock around each batch."""
    engine = work.service.models["vlm"].engine
    talks = [talk_of(one) for one in some]
    latencies: list[float] = []
    with torch.inference_mode():
        begun = time.perf_counter()
        for first in range(0, len(talks), work.batch_size):
            batch = talks[first : first + work.batch_size]
            sent = time.perf_counter()
            answer_bare(engine.module, engine.processor, batch, work.tokens)
            latencies += [time.perf_counter() - sent] * len(batch)
        return Block(number, tuple(latencies), time.perf_counter() - begun)


# --- the lab --------------------------------------------------------------------------------------


def time_lab(work: Work, number: int, some: Sequence[Request]) -> Block:
    """Time a block as a study does."""

    def ask(batch: Sequence[Request]) -> list[bool]:
        answers = work.service.ask(
            [one.query for one in batch], batch_size=work.batch_size, generation=work.generation
        )
        return [not one.error for one in answers]

    return measurement.closed_loop(ask, some, batch_size=work.batch_size, number=number)


def time_clocked(work: Work, number: int, some: Sequence[Request]) -> Clocked:
    """Time a block as a study does, and tell how much of it was the lab's own."""
    engine = work.service.models["vlm"].engine
    with clocks_in(engine.module, engine.processor) as (spent, calls):
        block = time_lab(work, number, some)
    needed = dict(spent)
    needed["apply_chat_template"] *= len(some) / calls["apply_chat_template"]
    return block, block.seconds - sum(needed.values())


@contextmanager
def clocks_in(model: Any, processor: Any) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Add up seconds and calls of what the bare loop calls too."""
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*words: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return call(*words, **options)
            finally:
                spent[name] += time.perf_counter() - begun
                calls[name] += 1

        return timed

    kind = type(processor)
    with ExitStack() as stack:
        for owner, name in (
            (kind, "__call__"),  # Python looks it up there
            (processor, "apply_chat_template"),
            (model, "generate"),
            (processor.tokenizer, "batch_decode"),
        ):
            patch = mock.patch.object(owner, name, clocked(name, getattr(owner, name)))
            stack.enter_context(patch)
        yield spent, calls


# --- both -----------------------------------------------------------------------------------------


def measure(
    work: Work, *, blocks: int, batches: int, seed: int
) -> tuple[dict[str, list[Block]], list[Clocked]]:
    """Let the four take turns; all of a block again if something disturbed one of them."""
    found: dict[str, list[Block]] = {way: [] for way in WAYS}
    clocked: list[Clocked] = []
    for number, order in enumerate(measurement.turns(WAYS, blocks=blocks, seed=seed)):
        some = work.of_block(number, batches)
        for _ in range(TIMES):
            for way in order:
                block, own = time_way(way, work, number, some)
                found[way].append(block)
                if own is not None:
                    clocked.append((block, own))
            if not any(found[way][-1].disturbed for way in WAYS):
                break
    return found, clocked


def time_way(
    way: str, work: Work, number: int, some: Sequence[Request]
) -> tuple[Block, float | None]:
    """Time one way of answering a block; say whether something disturbed it."""
    before, own = measurement.look(), None
    if way == "lab, clocked":
        block, own = time_clocked(work, number, some)
    else:
        block = (time_lab if way == "lab" else time_bare)(work, number, some)
    disturbed = measurement.disturbance(before, measurement.look())
    return replace(block, disturbed=disturbed), own


def load(root: Path, *, items: int, seed: int) -> tuple[Service, Sequence[Request]]:
    """Load the model, and draw what is asked."""
    resolved = params.load("medical", root=root)
    drawn = requests.draw(
        corpus.load(resolved), "text", items=items, settings=resolved.settings, seed=seed
    )
    trial = Trial(tenant="medical", kind="text", suite="demo", items=items, seed=seed)
    return services.load(trial, FOLDERS), drawn.measured


def usual_tokens(service: Service, asked: Sequence[Request]) -> int:
    """Return how many tokens an answer usually has, which a study writes while it times."""
    answers = service.ask([one.query for one in asked], batch_size=8, generation=Generation())
    return max(1, round(stats.quantile_interval([one.tokens_out for one in answers], 0.5).value))


def check_the_same(work: Work) -> None:
    """Stop if the two do not say the same: then they would not be comparable."""
    some = work.of_block(0, 1)
    engine = work.service.models["vlm"].engine
    with torch.inference_mode():
        bare = answer_bare(
            engine.module, engine.processor, [talk_of(one) for one in some], work.tokens
        )
    asked = work.service.ask(
        [one.query for one in some], batch_size=work.batch_size, generation=work.generation
    )
    if [text.strip() for text in bare] != [one.text for one in asked]:
        raise SystemExit(f"the bare loop and the lab must say the same, got {bare} and {asked}")


# --- telling --------------------------------------------------------------------------------------


def tell_agreement(found: dict[str, list[Block]], *, seed: int) -> bool:
    """Print p50 of each way and how the lab's compares; return whether the claim fails."""
    of_all = [one for way in WAYS[:3] for one in found[way]]
    print(f"  {sum(bool(one.disturbed) for one in of_all)} of {len(of_all)} blocks were disturbed")
    numbers = [{one.number for one in found[way] if not one.disturbed} for way in WAYS[:3]]
    enough = len(set.intersection(*numbers)) >= measurement.LEAST_BLOCKS
    bare, again, lab = (
        [replace(one, disturbed="") for one in found[way] if not (enough and one.disturbed)]
        for way in WAYS[:3]
    )
    for way, blocks in zip(WAYS, (bare, again, lab), strict=False):
        latencies = [latency for block in blocks for latency in block.latencies_s]
        p50 = stats.quantile_interval([one * 1e3 for one in latencies], 0.5)
        print(
            f"  {way:<12} p50 {p50.value:8.2f} ms [{p50.low:.2f}, {p50.high:.2f}],"
            f" n = {len(latencies)} requests, {len(blocks)} blocks"
        )
    floor = measurement.floor_of(bare, again, seed=seed)
    compared = measurement.compare(bare, lab, floor=floor, seed=seed)
    ratio, within = compared.ratio, 1 / (1 + floor) <= compared.ratio.value <= 1 + floor
    verdict = ("holds" if within else "FAILS") if enough else f"not settled ({TOO_FEW})"
    print(
        f"  lab / bare   {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}],"
        f" noise floor {floor:.2%}, n = {compared.blocks} blocks: within the floor {verdict}"
    )
    return enough and not within


def tell_overhead(clocked: Sequence[Clocked], *, seed: int) -> bool:
    """Print what the lab's own code costs; return whether the claim fails."""
    sound = [one for one in clocked if not one[0].disturbed]
    enough = len(sound) >= measurement.LEAST_BLOCKS
    shown = sound if enough else clocked
    share = stats.block_ratio(
        [block.seconds for block, _ in shown], [own for _, own in shown], seed=seed
    )
    each = stats.quantile_interval(
        [own / len(block.latencies_s) * 1e6 for block, own in shown], 0.5
    )
    count = sum(len(block.latencies_s) for block, _ in shown)
    verdict = "holds" if share.high <= LIMIT else "FAILS" if share.low > LIMIT else "not settled"
    verdict = verdict if enough else f"not settled ({TOO_FEW})"
    print(
        f"  overhead     {share.value:.3%} [{share.low:.3%}, {share.high:.3%}] of the time,"
        f" {each.value:.0f} us [{each.low:.0f}, {each.high:.0f}] a request,"
        f" n = {count} requests, {len(shown)} blocks: at most {LIMIT:.0%} {verdict}"
    )
    return verdict == "FAILS"


def main() -> None:
    """Measure both batch sizes; exit with 1 if a claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="project with a medical corpus")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of torch")
    parser.add_argument("--blocks", type=int, default=20, help="an even number")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as a study does
    failed = False
    with locks.measuring("cpu", waiting=print):
        service, asked = load(given.root, items=48, seed=given.seed)
        tokens = usual_tokens(service, asked)
        print(f"{machine.description()}; {given.threads} threads, {tokens} new tokens", flush=True)
        for batch_size, batches in ((1, 6), (8, 3)):
            work = Work(service, asked, batch_size, tokens)
            check_the_same(work)
            measure(work, blocks=2, batches=batches, seed=given.seed)  # until all is warm
            found, clocked = measure(work, blocks=given.blocks, batches=batches, seed=given.seed)
            print(f"batch {batch_size}, {batches} batches a block, intervals of 95 %")
            failed |= tell_agreement(found, seed=given.seed)
            failed |= tell_overhead(clocked, seed=given.seed)
            sys.stdout.flush()
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""The demo suite's CLIP: its shape, and how it is trained on pictures and their descriptions.

Owns the recipe: contrastive learning (Radford et al. 2021, arXiv:2103.00020) of 64-pixel pictures
and descriptions in three languages, with two heads that name icon and colour and are thrown away
afterwards; then the words alone go on learning, in larger batches, from what the finished vision
tower sees. Knows nothing of the other roles.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import lessons, training, vocabularies
from lab.lessons import LANGUAGES, Picture, Progress
from lab.training import Schedule, Trained, fit

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel, PreTrainedTokenizerFast

PICTURES = 30_000
BATCH = 192
SCHEDULE = Schedule(steps=2_200, learning_rate=1e-3, weight_decay=0.1)
WORDS_BATCH = 512
WORDS_SCHEDULE = Schedule(steps=1_500, learning_rate=1e-3, weight_decay=0.05)
WIDTH = 160
TEXT_WIDTH = 128
TEXT_TOKENS = 32
# CLIPTextModel reads a text off its end token, unless that has the number 2: then off the token
# with the highest number, which the end was in the first CLIP.
_SPECIAL = ("<pad>", "</s>", "<s>")
_SHIFT = 4  # pixels by which a picture is moved, so that places are not learnt by heart


def train(
    folder: Path,
    *,
    work: Path,
    schedule: Schedule = SCHEDULE,
    words: Schedule = WORDS_SCHEDULE,
    pictures: int = PICTURES,
    batch: int = BATCH,
    jobs: int = 1,
    progress: Progress,
) -> Trained:
    """Train from nothing and write the checkpoint.

    Args:
        folder: where the checkpoint is written.
        work: where what a kill must not lose is kept.
        schedule: steps and learning rate, of pictures and words together.
        words: likewise, of the words alone.
        pictures: how many different ones.
        batch: pictures per step.
        jobs: processes that draw.
        progress: called with (stage, done, total).
    """
    import torch

    shown = [lessons.picture(number, part="train") for number in range(pictures)]
    pixels = torch.from_numpy(
        lessons.draw_all(shown, work / "pictures", jobs=jobs, progress=progress)
    ).permute(0, 3, 1, 2)  # (pictures, 3, SIDE, SIDE)
    torch.manual_seed(schedule.seed)
    tokenizer = learn_vocabulary(shown)
    device = training.device()
    model = build(len(tokenizer), tokenizer.eos_token_id).to(device)
    model.set_attn_implementation("eager")  # its backward pass is twice as fast here
    names = _Names(shown, tokenizer, device)
    heads = torch.nn.ModuleList(
        torch.nn.Linear(WIDTH, count, device=device)
        for count in (len(names.icons), len(names.colours))
    )

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([schedule.seed, step])
        chosen = rng.choice(len(shown), size=batch, replace=False)
        images = normalised(_moved(pixels[chosen], rng)).to(device)
        seen = model.vision_model(pixel_values=images).pooler_output
        ids, mask = names.texts(chosen, rng)
        read = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        image_vectors = torch.nn.functional.normalize(model.visual_projection(seen), dim=-1)
        text_vectors = torch.nn.functional.normalize(model.text_projection(read), dim=-1)
        cross_entropy = torch.nn.functional.cross_entropy
        contrast = _contrast(image_vectors, text_vectors, model.logit_scale, names.look[chosen])
        icon = cross_entropy(heads[0](seen), names.icon[chosen])
        colour = cross_entropy(heads[1](seen), names.colour[chosen])
        return contrast + 0.5 * icon + 0.5 * colour

    recipe = lessons.recipe("demo_clip", pictures, batch, schedule)
    trained = fit(
        [model, heads], loss_of, schedule, work / "clip", recipe=recipe, progress=progress
    )
    model.vision_model.requires_grad_(False)
    seen = _see(model, pixels, progress)

    def loss_of_words(step: int) -> torch.Tensor:
        rng = np.random.default_rng([words.seed, 1, step])
        chosen = rng.choice(len(shown), size=min(WORDS_BATCH, len(shown)), replace=False)
        ids, mask = names.texts(chosen, rng)
        read = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        image_vectors = torch.nn.functional.normalize(model.visual_projection(seen[chosen]), dim=-1)
        text_vectors = torch.nn.functional.normalize(model.text_projection(read), dim=-1)
        return _contrast(image_vectors, text_vectors, model.logit_scale, names.look[chosen])

    spoken = fit(
        [model], loss_of_words, words, work / "clip-words", recipe=recipe, progress=progress
    )
    save(model.eval(), tokenizer, folder)
    return Trained((*trained.losses, *spoken.losses), trained.seconds + spoken.seconds)


def _contrast(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, look: torch.Tensor
) -> torch.Tensor:
    """Return CLIP's loss in both directions; pictures of one look are each other's positives."""
    import torch

    scores = scale.exp().clamp(max=100) * images @ texts.T
    target = (look[:, None] == look[None, :]).float()
    target = target / target.sum(-1, keepdim=True)
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2


def _see(model: CLIPModel, pixels: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Return what the vision tower sees in each picture, (pictures, WIDTH)."""
    import torch

    parts = []
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16):
        for first in range(0, len(pixels), 500):
            some = normalised(pixels[first : first + 500]).to(model.device)
            parts.append(model.vision_model(pixel_values=some).pooler_output.float())
            progress("looking", first + len(some), len(pixels))
    return torch.cat(parts).clone()


def build(vocabulary: int, eos: int) -> CLIPModel:
    """Return an untrained model."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 4 * TEXT_WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_TOKENS,
            "bos_token_id": _SPECIAL.index("<s>"),
            "eos_token_id": eos,
            "pad_token_id": 0,
        },
        vision_config=vision_shape(),
        projection_dim=TEXT_WIDTH,
    )
    return CLIPModel(config)


def vision_shape() -> dict[str, int]:
    """Return the shape of the vision tower, which the demo suite's LLaVA shares."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "image_size": lessons.SIDE,
        "patch_size": 8,
    }


def learn_vocabulary(shown: list[Picture]) -> PreTrainedTokenizerFast:
    """Learn the words of the descriptions."""
    texts = [one.describe(language) for one in shown for language in LANGUAGES]
    tokenizer = vocabularies.learn(
        texts, size=1_400, special=_SPECIAL, single_kana=True, lowercase=True
    )
    return vocabularies.framed(tokenizer, begin="<s>", end="</s>", pad="<pad>", most=TEXT_TOKENS)


def image_processor() -> object:
    """Return the processor that turns any image into what the vision tower sees."""
    from transformers import CLIPImageProcessorPil

    side = {"height": lessons.SIDE, "width": lessons.SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": lessons.SIDE}, crop_size=side)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels (items, 3, height, width) of 0 to 255 as `image_processor` would."""
    import torch
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean = torch.tensor(OPENAI_CLIP_MEAN)[:, None, None]
    std = torch.tensor(OPENAI_CLIP_STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint in bfloat16, with its processor."""
    import torch
    from transformers import CLIPProcessor

    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    CLIPProcessor(image_processor(), tokenizer).save_pretrained(folder)


class _Names:
    """What each picture shows, as class numbers and as tokens."""

    def __init__(
        self, shown: list[Picture], tokenizer: PreTrainedTokenizerFast, device: str
    ) -> None:
        import torch

        self.icons = sorted({one.look[0] for one in shown})
        self.colours = sorted({one.look[1] for one in shown})
        icons = [self.icons.index(one.look[0]) for one in shown]
        colours = [self.colours.index(one.look[1]) for one in shown]
        self.icon = torch.tensor(icons, device=device)
        self.colour = torch.tensor(colours, device=device)
        self.look = self.icon * len(self.colours) + self.colour
        encoded = tokenizer(
            [one.describe(language) for one in shown for language in LANGUAGES],
            padding=True,
            return_tensors="pt",
        ).to(device)
        self._ids = encoded.input_ids.view(len(shown), len(LANGUAGES), -1)
        self._mask = encoded.attention_mask.view_as(self._ids)

    def texts(
        self, chosen: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens and mask of the descriptions, each in a language of its own."""
        language = rng.integers(len(LANGUAGES), size=len(chosen))
        return self._ids[chosen, language], self._mask[chosen, language]


def _moved(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    import torch

    right, down = rng.integers(-_SHIFT, _SHIFT + 1, size=2).tolist()
    padded = torch.nn.functional.pad(pixels.float(), [_SHIFT] * 4, mode="replicate")
    side = pixels.shape[-1]
    top, left = _SHIFT + down, _SHIFT + right
    return padded[..., top : top + side, left : left + side]

"""CLIP from a weights folder: features of texts, pictures and videos, zero-shot classes, hidden states.

Radford et al., ICML 2021, arXiv 2103.00020. The folder is what `jaxvl convert` writes from any published layout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxvl.core.errors import InputError
from jaxvl.core.model import Classified, Model, cosine, in_batches, is_vectors, listed, unit
from jaxvl.data import images, inputs
from jaxvl.data.clip_bpe import CLIPTokenizer
from jaxvl.data.text import cut_note
from jaxvl.data.video import load_clip
from jaxvl.interop import clip
from jaxvl.interop.keys import nest
from jaxvl.interop.weights import INFO, load_weights
from jaxvl.nn.clip import CLIP, CLIPConfig
from jaxvl.ops.masking import l2_normalize, unit_mean

TEMPLATES = ("a photo of a {}.",)
UNTOLD = ("activation", "ln_eps", "eos_token_id", "logit_scale_init", "linear_patch")
"""Fields that shapes do not tell."""
PREFIXES = ("visual/", "text/", "logit_scale")


class CLIPModel(Model):
    """Both towers with the verbs `encode_text`, `encode_image`, `encode_video`, `similarity`, `classify` and
    `hidden_states`.

    config: sizes. variables: the collections of `jaxvl.nn.clip.CLIP`. batch_size: rows a call.
    """

    name = "CLIP"

    def __init__(
        self,
        config: CLIPConfig,
        variables: Mapping[str, Any],
        source: str = "given weights",
        batch_size: int = 32,
        say: Callable[[str], None] | None = None,
    ):
        self.config, self.variables, self.source, self.batch_size = config, variables, source, batch_size
        self.say = say or (lambda line: None)
        self.tokenizer = CLIPTokenizer()
        if config.vocab_size != self.tokenizer.vocab_size:
            raise InputError(
                f"{source}: its vocabulary has {config.vocab_size} entries, CLIP's {self.tokenizer.vocab_size}; "
                "texts for it cannot be tokenised"
            )
        self._model = CLIP(config)

    @classmethod
    def of_folder(cls, folder: str | Path, **options: Any) -> CLIPModel:
        """The CLIP of a weights folder; what lies around it (the head of a method) is left out. Raises InputError."""
        flat, info = load_weights(folder)
        params = {path: x for path, x in flat.items() if path.startswith(PREFIXES)}
        try:
            config = CLIPConfig(**info["config"])
            told = clip.config_of_params(params, {name: getattr(config, name) for name in UNTOLD})
        except (KeyError, TypeError, InputError) as error:
            raise InputError(f"{folder}: holds no CLIP ({info.get('family', 'unknown family')}, {error})") from None
        if other := [name for name in clip.FIELDS if getattr(told, name) != getattr(config, name)]:
            said = f"{other[0]} {getattr(config, other[0])}, its weights have {getattr(told, other[0])}"
            raise InputError(f"{Path(folder) / INFO}: says {said}; run jaxvl convert again")
        variables = {"params": nest(params)}
        for name in info.get("collections", []):
            variables[name] = nest(load_weights(folder, name)[0])
        return cls(config, variables, str(folder), **options)

    @functools.cached_property
    def logit_scale(self) -> float:
        """`exp` of the learned log-temperature: cosines times this are the logits that CLIP was trained with."""
        return float(np.exp(np.asarray(self.variables["params"]["logit_scale"], np.float32)))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors `[n, E]` of texts; one that is longer than the context is cut, and said."""
        call = lambda batch: {"x": self._text(self.variables, batch["ids"])}  # noqa: E731
        return in_batches(call, {"ids": self._ids(texts)}, self.batch_size)["x"]

    def encode_image(self, images: Sequence[Any]) -> np.ndarray:
        """Unit vectors `[n, E]` of pictures: paths, Pillow pictures, or uint8 `[H, W, 3]`; resized and cropped inside.

        Raises BadMedia for a file that cannot be decoded.
        """
        return self._pixels_in_batches(lambda v, pixels: self._image(v, pixels), listed(images, "images"))

    def encode_video(
        self, videos: Sequence[Any], *, frames: int = 12, sampling: str = "uniform", fps: float | None = None
    ) -> np.ndarray:
        """Unit vectors `[n, E]` of videos: the unit mean over `frames` of them (CLIP4Clip's meanP).

        videos: paths, or uint8 `[T, H, W, 3]`. sampling, fps: as in `jaxvl.data.video.load_clip`. Raises BadMedia.
        """
        size = self.config.image_size
        out = []
        for number, given in enumerate(listed(videos, "videos")):
            source = inputs.video(given, number, fps)
            clip = load_clip(source, num_frames=frames, image_size=size, sampling=sampling, fps=fps)
            vectors = self.encode_image(list(clip.frames))
            out.append(np.asarray(unit_mean(vectors, clip.mask)))
        return np.stack(out)

    def similarity(self, texts: Any, images: Any) -> np.ndarray:
        """Cosines `[n, m]` of n texts and m pictures; either may also be vectors `[., E]` that were encoded before."""
        a = unit(texts) if is_vectors(texts) else self.encode_text(texts)
        b = unit(images) if is_vectors(images) else self.encode_image(images)
        return cosine(a, b)

    def class_vectors(self, classes: Sequence[str], templates: Sequence[str] = TEMPLATES) -> np.ndarray:
        """Unit vectors `[K, E]` of classes: the unit mean over their prompts (section 3.1.4)."""
        names, forms = listed(classes, "classes"), listed(templates, "templates")
        for form in forms:
            if "{}" not in form:
                raise InputError(f"template {form!r}: has no {{}} where the class's name goes")
        text = self.encode_text([form.format(name) for name in names for form in forms])
        text = text.reshape(len(names), len(forms), -1)
        return np.asarray(unit_mean(text, np.ones(text.shape[:2], bool)))

    def classify(self, images: Any, classes: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Classified:
        """Zero-shot classes of pictures: softmax over the classes of `logit_scale` times the cosine (section 3.1).

        images: as `encode_image` takes them, or their vectors `[n, E]`.
        """
        names = listed(classes, "classes")
        vectors = unit(images) if is_vectors(images) else self.encode_image(images)
        logits = self.logit_scale * cosine(vectors, self.class_vectors(names, templates))
        return Classified(tuple(map(str, names)), np.asarray(jax.nn.softmax(logits)))

    def hidden_states(
        self, *, texts: Sequence[str] | None = None, images: Sequence[Any] | None = None
    ) -> dict[str, np.ndarray]:
        """The residual stream of every layer of one or both towers.

        `text` `[layers + 1, n, context, Wt]` (0: embeddings and positions), `image` `[layers + 1, n, 1 + patches, W]`
        (0: behind `ln_pre`; the class token is the first). Neither tower's last norm is applied.
        """
        out = {}
        if texts is not None:
            call = lambda batch: {"x": self._text_layers(self.variables, batch["ids"])}  # noqa: E731
            out["text"] = in_batches(call, {"ids": self._ids(texts)}, self.batch_size)["x"].swapaxes(0, 1)
        if images is not None:
            if self.config.vision_blocks:
                raise InputError(f"{self.source}: the image tower is a ResNet, which has no tokens; use a ViT")
            layers = self._pixels_in_batches(lambda v, x: self._image_layers(v, x), listed(images, "images"))
            out["image"] = layers.swapaxes(0, 1)
        if not out:
            raise InputError("hidden_states: give texts, images or both")
        return out

    # -- inside

    def _ids(self, texts: Sequence[str]) -> np.ndarray:
        """int32 `[n, context]`."""
        texts = listed(texts, "texts")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {number}: needs a string, got {type(text).__name__}")
        length = self.config.context_length
        if line := cut_note(self.tokenizer, {"": texts}, length, "texts"):
            self.say(line)
        return self.tokenizer.tokenize(texts, length, truncate=True)

    def _pixels_in_batches(self, call: Callable, given: Sequence[Any]) -> np.ndarray:
        """`call(variables, pixels)` over pictures, no more of which are held decoded than a batch."""
        size, parts = self.config.image_size, []
        for begin in range(0, len(given), self.batch_size):
            rows = given[begin : begin + self.batch_size]
            pixels = np.stack([images.square(inputs.picture(x, begin + i), size) for i, x in enumerate(rows)])
            fields = {"pixels": pixels}
            parts.append(in_batches(lambda b: {"x": call(self.variables, b["pixels"])}, fields, self.batch_size)["x"])
        return np.concatenate(parts)

    def _apply(self, variables: Any, x: jax.Array, method: Callable, **options: Any) -> Any:
        return nn.apply(lambda model: method(model, x, **options), self._model)(variables)

    @functools.cached_property
    def _text(self) -> Callable:
        return jax.jit(lambda v, ids: l2_normalize(self._apply(v, ids, CLIP.encode_text).features))

    @functools.cached_property
    def _image(self) -> Callable:
        return jax.jit(lambda v, pixels: l2_normalize(self._apply(v, pixels, CLIP.encode_image).features))

    @functools.cached_property
    def _text_layers(self) -> Callable:
        wanted = range(self.config.text_layers + 1)
        run = lambda v, ids: self._apply(v, ids, CLIP.encode_text, return_layers=wanted).layers  # noqa: E731
        return jax.jit(lambda v, ids: jax.numpy.stack([x for _, x in sorted(run(v, ids).items())], 1))

    @functools.cached_property
    def _image_layers(self) -> Callable:
        wanted = range(self.config.vision_layers + 1)
        run = lambda v, x: self._apply(v, x, CLIP.encode_image, return_layers=wanted).layers  # noqa: E731
        return jax.jit(lambda v, x: jax.numpy.stack([y for _, y in sorted(run(v, x).items())], 1))

"""A bundle as a Hugging Face model: optimum's base class with transformers' own `generate`.

Sampling, beam search, streamers and stopping criteria are transformers'; only `forward` is ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from huggingface_hub import HfApi, snapshot_download
from optimum.modeling_base import OptimizedModel
from transformers import GenerationConfig, GenerationMixin
from transformers.generation import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from art_export.build import BuildOptions, build
from art_export.bundle import Bundle
from art_export.optimum_cache import EngineCache
from art_export.optimum_inputs import ChatInputs
from engines.contract import EngineOptions, Floats
from engines.errors import OptionError, PromptError
from engines.files import staged_folder
from engines.model import load_config
from engines.picture import Picture

STEPPED = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
"""Ways to generate in which a row never goes on from another one."""
PICTURE_INPUTS = ("pixel_values", "image_grid_thw", "pixels")
BUILD_OPTIONS = ("engine", "precision", "size", "max_length", "max_batch", "compute_capability")
HUB_OPTIONS = ("revision", "cache_dir", "force_download", "token", "local_files_only")


class ArtModelForImageTextToText(OptimizedModel, GenerationMixin):  # type: ignore[misc]
    """A compiled bundle that is called like the model that it was built from.

    `generate` takes what the model's processor makes of chats: input_ids with placeholders,
    attention_mask (padding at the left), pixel_values and image_grid_thw; or `pixels`, uint8
    (n, size, size, 3), in place of these two. A chat with placeholders and neither sees the art:
    where it begins with header and picture, as every chat of one user turn does, it goes on from
    the stored prefix state, and the picture costs nothing.

    >>> model = ArtModelForImageTextToText.from_pretrained("bundle", art="tools")
    >>> model.generate(**inputs, num_beams=3, max_new_tokens=64)
    """

    main_input_name = "input_ids"
    # A recurrent state cannot be rewound: transformers then refuses assisted generation.
    _is_stateful = True

    def __init__(
        self, bundle: Bundle, config: Any = None, art: str | Path | Picture | None = None
    ) -> None:
        path = bundle.folder.path
        super().__init__(bundle.runtime.engine, config or load_config(path))
        self.bundle = bundle
        self.generation_config = GenerationConfig.from_pretrained(path)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._inputs = ChatInputs(bundle)
        self._built: TemporaryDirectory[str] | None = None
        self.use_art(art)

    @classmethod
    def _from_pretrained(
        cls,
        model_id: str | Path,
        config: Any = None,
        art: str | Path | Picture | None = None,
        device: str | None = None,
        provider: str | None = None,
        threads: int | None = None,
        **hub: Any,
    ) -> Self:
        """Open a bundle's folder, or one that was pushed to the hub.

        Args:
            art: see `use_art`.
            device, provider, threads: see `engines.contract.EngineOptions`.
        """
        bundle = Bundle.load(_local(model_id, hub), EngineOptions(device, provider, threads))
        return cls(bundle, config, art)

    @classmethod
    def _export(cls, model_id: str | Path, config: Any = None, **options: Any) -> Self:
        """Build a bundle that lives as long as the model; BUILD_OPTIONS: see `BuildOptions`."""
        chosen = {name: options.pop(name) for name in BUILD_OPTIONS if name in options}
        folder = TemporaryDirectory(prefix="art-export-")
        path = Path(folder.name) / "bundle"
        build(BuildOptions(str(model_id), path, **chosen))
        model = cls._from_pretrained(path, config, **options)
        model._built = folder
        return model

    def use_art(self, art: str | Path | Picture | None) -> None:
        """Choose what placeholders without pixels show.

        Args:
            art: the name of an art in the bundle, a PNG file, a picture, "none", or None for the
                one that the bundle has in use.

        Raises:
            OptionError, PictureError, BundleError: it cannot be used.
        """
        self._inputs.use_art(art)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EngineCache | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixels: Any = None,
        image_features: Sequence[Floats | None] | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """Logits fp32 (batch, kept, vocabulary) of new tokens, and the state after them.

        Args:
            input_ids: int64 (batch, length), without what is in past_key_values.
            attention_mask: (batch, past + length), 0 for padding, at the left end only.
            pixel_values, image_grid_thw, pixels: see the class; in the placeholders' order.
            image_features: visual tokens (pictures, tokens, width) or None for every row, in place
                of pictures.
            mm_token_type_ids, pixel_attention_mask: what processors give besides; not needed.
            logits_to_keep: logits of how many last positions to return, 0 for all.

        Raises:
            PromptError: padding is not at the left, or placeholders and pictures do not match.
            PictureError: a picture is of another size than the bundle's.
        """
        ids, inputs = input_ids.cpu().numpy(), self._inputs
        if image_features is None:
            image_features = inputs.features(ids, pixel_values, image_grid_thw, pixels)
        cache = self._cache() if past_key_values is None else past_key_values
        if cache.get_seq_length():
            logits = cache.extend(ids, inputs.encoded(image_features), logits_to_keep)
        else:
            rows = inputs.rows(ids, attention_mask, image_features, logits_to_keep)
            logits = cache.start(rows, ids.shape[1], logits_to_keep)
        return CausalLMOutputWithPast(
            logits=torch.from_numpy(logits), past_key_values=cache if use_cache else None
        )

    def _cache(self, steps: int = 0) -> EngineCache:
        runtime = self.bundle.runtime
        return EngineCache(runtime.engine, runtime.chat.layout, steps)

    # -- what GenerationMixin asks for ------------------------------------------------------------

    def can_generate(self) -> bool:
        """It can."""
        return True

    def get_experts_implementation(self) -> dict[str, str]:
        """A compiled model has nothing to switch."""
        return {}

    def _prepare_cache_for_generation(
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        limit = self.bundle.folder.manifest.max_length
        if max_cache_length >= limit:
            raise PromptError(
                got=f"{max_cache_length + 1} tokens, prompt and answer together",
                expected=f"at most {limit}, which this bundle was built for",
                fix="shorten the prompt or lower max_new_tokens",
            )
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache:
            alone = generation_mode in STEPPED and not generation_config.return_dict_in_generate
            model_kwargs["past_key_values"] = self._cache(max_cache_length if alone else 0)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Encode the pictures once, before rows are repeated."""
        pictures = [model_kwargs.pop(name, None) for name in PICTURE_INPUTS]
        features = self._inputs.features(input_ids.cpu().numpy(), *pictures)
        model_kwargs["image_features"] = [seen for seen in features for _ in range(expand_size)]
        expanded: tuple[Any, dict[str, Any]] = super()._expand_inputs_for_generation(
            expand_size=expand_size, input_ids=input_ids, **model_kwargs
        )
        return expanded

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: EngineCache | None = None,
        is_first_iteration: bool = False,
        image_features: Sequence[Floats | None] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The tokens, and the pictures among them, that the state does not have yet."""
        new = input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:]
        prompt = is_first_iteration or past_key_values is None
        features = image_features or [None] * len(new)
        return {
            "input_ids": new,
            "past_key_values": past_key_values,
            "image_features": self._inputs.last(features, new.cpu().numpy() if prompt else None),
            **kwargs,
        }

    # -- saving -----------------------------------------------------------------------------------

    def save_pretrained(
        self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Copy the bundle, arts included, to a folder that does not exist yet.

        Raises:
            OutputExistsError, DiskFullError: it cannot be written.
        """
        source = self.bundle.folder.path
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        with staged_folder(Path(save_directory), needed=size) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        if push_to_hub:
            self.push_to_hub(save_directory, **kwargs)

    def _save_pretrained(self, save_directory: str | Path) -> None:
        self.save_pretrained(save_directory)

    def push_to_hub(
        self,
        save_directory: str | Path | None = None,
        repository_id: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Upload the bundle, or a saved copy of it, to a repository on the hub, folders kept."""
        if repository_id is None:
            raise OptionError(
                got="push_to_hub without a repository_id",
                expected="the name of a repository on the hub, 'user/name'",
                fix="give repository_id='user/name'",
            )
        api, folder = HfApi(token=token), save_directory or self.bundle.folder.path
        api.create_repo(repo_id=repository_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository_id, folder_path=str(folder)))

    def close(self) -> None:
        """Release the graphs."""
        self.bundle.close()
        if self._built is not None:
            self._built.cleanup()


def _local(model_id: str | Path, hub: dict[str, Any]) -> Path:
    """A bundle's folder, downloaded first where it is a repository's name."""
    subfolder = hub.get("subfolder") or ""
    if Path(model_id).exists():
        return Path(model_id) / subfolder
    options = {name: hub[name] for name in HUB_OPTIONS if name in hub}
    return Path(snapshot_download(str(model_id), **options)) / subfolder

"""A tiny LLaVA with random weights, its processor and a chat template, written by transformers itself."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import tiny_checkpoints

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Roles, `<image>` for a picture, the words."""


def write_llava(folder: Path) -> Any:
    """Write the folder and return transformers' model."""
    transformers: Any = import_module("transformers")
    folder.mkdir(parents=True)
    words = (tiny_checkpoints.WORDS, "Yes yes YES No no NO")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_checkpoints.write_tokenizer(folder, words),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<image>"],
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=28, patch_size=14, **sizes),
        text_config=transformers.Qwen2Config(
            vocab_size=400, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, **sizes
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    tiny_checkpoints.randomise(model)
    model.save_pretrained(folder)
    return model

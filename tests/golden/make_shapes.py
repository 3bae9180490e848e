#!/usr/bin/env python3
"""Small random checkpoints in shapes chosen to break things, with the reference's numbers beside them.

  make_shapes.py OUT [NAME...]     one folder a shape in OUT: config.json, *.safetensors, golden.json

The reference is $ERNIE_SHARED/oracle/ernie_ref.py; exit 77 when it or numpy is not there. A shape is
drawn again until no choice of an expert and no greedy token is a near tie (exact ones are meant), so
that an honest float implementation must agree on all of them.
"""
import itertools, json, os, shutil, struct, sys

sys.dont_write_bytecode = True  # the oracle's folder is not ours
try:
    import numpy as np
    sys.path.insert(0, os.path.join(os.environ.get("ERNIE_SHARED", "../shared"), "oracle"))
    import ernie_ref
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

F = np.float32
N_GREEDY = 6
ROUTE_MARGIN = 2e-5   # of the score of the last chosen expert
GREEDY_MARGIN = 0.02

DENSE = dict(
    architectures=["Ernie4_5ForCausalLM"], model_type="ernie4_5", vocab_size=97, hidden_size=64,
    intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, hidden_act="silu", use_bias=False, max_position_embeddings=2048, rms_norm_eps=1e-5,
    rope_theta=500000.0, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0)
MOE = dict(
    DENSE, architectures=["Ernie4_5_MoeForCausalLM"], model_type="ernie4_5_moe", num_hidden_layers=3,
    moe_num_experts=8, moe_k=2, moe_intermediate_size=32, moe_num_shared_experts=1,
    moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1)

# ---- The shapes ---------------------------------------------------------------------------------


def dense(**config):
    return shape(DENSE, config)


def moe(**config):
    return shape(MOE, config)


def shape(base, config):
    """Keys in capitals say how it is drawn and written, the others are fields of config.json."""
    how = {key: config.pop(key) for key in list(config) if key.isupper()}
    return dict(base, **config), how


SHAPES = {
    # Heads: dimensions that no vector divides, groups of one and of many, one block and two.
    "head_24": dense(head_dim=24, num_attention_heads=5, num_key_value_heads=1, hidden_size=50),
    "head_40": dense(head_dim=40, num_attention_heads=6, num_key_value_heads=3, hidden_size=100, TOKENS=33),
    "head_80": dense(head_dim=80, num_attention_heads=20, num_key_value_heads=1, hidden_size=36, TOKENS=260,
                     num_hidden_layers=1),
    "head_96": dense(head_dim=96, num_attention_heads=3, num_key_value_heads=3, hidden_size=90),
    "head_128": dense(head_dim=128, num_attention_heads=7, num_key_value_heads=1, hidden_size=33, vocab_size=113),
    "head_2": dense(head_dim=2, num_attention_heads=9, num_key_value_heads=3, hidden_size=17, TOKENS=20),
    "head_150": dense(head_dim=150, num_attention_heads=2, num_key_value_heads=1, hidden_size=48),
    "group_40": dense(head_dim=12, num_attention_heads=40, num_key_value_heads=1, TOKENS=19),
    "long": dense(num_attention_heads=6, num_key_value_heads=2, head_dim=20, hidden_size=40, TOKENS=330,
                  vocab_size=64),
    "long_theta": dense(rope_theta=100.0, TOKENS=270, num_hidden_layers=1, num_key_value_heads=1, vocab_size=50),
    "head_derived": dense(num_attention_heads=4, hidden_size=104, head_dim=26, DROP=["head_dim"]),
    # Sizes: odd ones, one of everything.
    "odd": dense(hidden_size=61, intermediate_size=37, vocab_size=101, head_dim=14, num_attention_heads=3,
                 num_key_value_heads=1),
    "narrow": dense(hidden_size=7, intermediate_size=1, vocab_size=13, head_dim=4, num_attention_heads=1,
                    num_key_value_heads=1, num_hidden_layers=1),
    "wide": dense(hidden_size=288, intermediate_size=500, vocab_size=531, num_hidden_layers=1),
    "eps": dense(rms_norm_eps=0.3, tie_word_embeddings=False, vocab_size=33),
    "one_token": moe(TOKENS=1),
    # Mixtures: how many, how many chosen, where.
    "experts_3_all": moe(moe_num_experts=3, moe_k=3, moe_num_shared_experts=0, moe_intermediate_size=19),
    "experts_7": moe(moe_num_experts=7, moe_k=1, moe_num_shared_experts=2, moe_intermediate_size=33),
    "experts_64": moe(moe_num_experts=64, moe_k=8, moe_intermediate_size=16, num_hidden_layers=2, TOKENS=40),
    "experts_80": moe(moe_num_experts=80, moe_k=5, moe_intermediate_size=7, hidden_size=52, TOKENS=40),
    "experts_1": moe(moe_num_experts=1, moe_k=1, moe_num_shared_experts=0),
    "interval_2": moe(moe_layer_interval=2, num_hidden_layers=6, moe_layer_start_index=0, moe_layer_end_index=4),
    "interval_3": moe(moe_layer_interval=3, num_hidden_layers=8, moe_layer_start_index=3, moe_layer_end_index=99),
    "all_moe": moe(moe_layer_start_index=0, moe_layer_end_index=2, moe_k=6, TOKENS=70),
    "no_moe_layer": moe(moe_layer_interval=5),
    "no_bias": moe(BIAS=None, moe_k=4),
    "bias_rules": moe(BIAS=3.0, ROUTER=12.0, moe_num_experts=16, moe_k=3),
    "norm_min": moe(BIAS=3.0, ROUTER=12.0, moe_norm_min=0.05, moe_k=2),
    "router_flat": moe(ROUTER=0.02, moe_k=3, moe_num_experts=9),
    # Half of the experts have probabilities that are the same to the last bit: the lowest index wins.
    "ties": moe(moe_num_experts=21, moe_k=7, BIAS=None, EQUAL=range(1, 21, 2), TOKENS=40),
    "moe_long": moe(num_attention_heads=5, num_key_value_heads=1, head_dim=24, hidden_size=36, TOKENS=270,
                    moe_num_experts=12, moe_k=3, vocab_size=50),
    "moe_untied": moe(tie_word_embeddings=False, moe_num_shared_experts=3, moe_intermediate_size=11,
                      vocab_size=119),
    # Spellings of the tensors.
    "merged": moe(SPELL=["merged", "bias_under_gate"], DTYPE="f32"),
    "fused": moe(SPELL=["fused", "ernie", "bias_flat", "transposed_router"], moe_intermediate_size=21),
    "fused_merged": moe(SPELL=["fused", "merged", "shards"], DTYPE="f16"),
    "mixed": moe(DTYPE="mixed", SPELL=["shards", "rotary"], moe_num_experts=5),
    "gate_bf16": moe(DTYPE="all_bf16", SPELL=["no_index"]),
    "mtp": moe(SPELL=["mtp", "head_copy"], num_nextn_predict_layers=1),
    # Spellings of config.json: what is absent has the default that transformers and the spec give.
    "config_bare": dense(num_key_value_heads=4, DROP=["use_bias", "hidden_act", "rope_theta", "rms_norm_eps",
                         "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
                         "num_key_value_heads", "tie_word_embeddings", "model_type"]),
    "config_bare_moe": moe(DROP=["moe_layer_end_index", "moe_layer_interval", "moe_layer_start_index",
                           "tie_word_embeddings", "architectures", "moe_num_shared_experts"]),
    "config_tie_unsaid": moe(SPELL=["head_copy"], DROP=["tie_word_embeddings"]),
    "config_nulls": moe(moe_num_shared_experts=0, JSON=dict(moe_num_shared_experts=None, rope_scaling=None,
                        head_dim=None, sliding_window=None, quantization_config=None,
                        tie_word_embeddings=None)),
    "config_lists": moe(JSON=dict(moe_num_experts=[8, 8], moe_intermediate_size=[32, 16],
                        moe_layer_start_index=[1, 1], moe_layer_end_index=[9, 8], moe_capacity=[64, 64, 64],
                        moe_gate="topk", moe_use_aux_free=True)),
    "config_nested": moe(num_hidden_layers=4, moe_layer_interval=2, moe_layer_start_index=1, rope_theta=777.5,
                         DROP=["rope_theta", "moe_layer_start_index", "moe_layer_end_index",
                               "moe_layer_interval", "moe_num_experts", "moe_k"],
                         JSON=dict(rope_parameters=dict(rope_type="default", rope_theta=777.5),
                                   num_experts=8, num_experts_per_tok=2,
                                   mlp_layer_types=["dense", "sparse", "dense", "sparse"])),
}

# ---- Weights ------------------------------------------------------------------------------------


def is_moe(config, layer):
    end = config.get("moe_layer_end_index", -1)
    return ("moe_num_experts" in config and (layer + 1) % config["moe_layer_interval"] == 0
            and config["moe_layer_start_index"] <= layer
            and layer <= (config["num_hidden_layers"] - 1 if end < 0 else end))


class Draw:
    """Random tensors under their usual names, rounded to the type in which they will be stored."""

    def __init__(self, config, how, seed):
        self.random = np.random.default_rng(seed)
        self.tensors, self.dtypes = {}, {}
        self.cycle = itertools.cycle(["bf16", "f32", "f16"])
        self.dtype = how.get("DTYPE", "bf16")
        h, heads, kv, d = (config[k] for k in
                           ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
        self.h = h
        # The head's rows set the size of the logits: about 8, as the tiny checkpoints have.
        self.add("model.embed_tokens.weight", (config["vocab_size"], h), 8 / h ** 0.5)
        if not config["tie_word_embeddings"] or "head_copy" in how.get("SPELL", []):
            self.add("lm_head.weight", (config["vocab_size"], h), 8 / h ** 0.5)
        self.norm("model.norm.weight")
        for i in range(config["num_hidden_layers"]):
            stem = f"model.layers.{i}."
            self.attention(stem, heads, kv, d)
            if is_moe(config, i):
                self.mixture(stem + "mlp.", config, how)
            else:
                self.ffn(stem + "mlp.", config["intermediate_size"])
        if "mtp" in how.get("SPELL", []):
            self.norm("model.mtp_emb_norm.0.weight")
            self.norm("model.mtp_hidden_norm.0.weight")
            self.linear("model.mtp_linear_proj.0.weight", h, 2 * h)
            self.attention("model.mtp_block.0.", heads, kv, d)
            self.ffn("model.mtp_block.0.mlp.", config["intermediate_size"])

    def add(self, name, dims, spread, middle=0.0, keep=False):
        dtype = next(self.cycle) if self.dtype == "mixed" else self.dtype
        dtype = "bf16" if dtype == "all_bf16" else "f32" if keep else dtype
        x = (self.random.standard_normal(dims) * spread + middle).astype(F)
        if dtype == "bf16":
            bits = x.view(np.uint32)
            x = ((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000).astype(np.uint32).view(F)
        elif dtype == "f16":
            x = x.astype(np.float16).astype(F)
        self.tensors[name], self.dtypes[name] = x, dtype

    def linear(self, name, n_out, n_in, gain=1.0):
        self.add(name, (n_out, n_in), gain / n_in ** 0.5)

    def norm(self, name):
        self.add(name, (self.h,), 0.2, 1.0)

    def attention(self, stem, heads, kv, d):
        self.norm(stem + "input_layernorm.weight")
        self.norm(stem + "post_attention_layernorm.weight")
        for part, rows in (("q", heads), ("k", kv), ("v", kv)):
            self.linear(f"{stem}self_attn.{part}_proj.weight", rows * d, self.h, 1.5)
        self.linear(stem + "self_attn.o_proj.weight", self.h, heads * d)

    def ffn(self, stem, width):
        self.linear(stem + "gate_proj.weight", width, self.h, 1.5)
        self.linear(stem + "up_proj.weight", width, self.h, 1.5)
        self.linear(stem + "down_proj.weight", self.h, width)

    def mixture(self, stem, config, how):
        n, width = config["moe_num_experts"], config["moe_intermediate_size"]
        self.add(stem + "gate.weight", (n, self.h), how.get("ROUTER", 1.0) * 2 / self.h ** 0.5, keep=True)
        self.tensors[stem + "gate.weight"][list(how.get("EQUAL", []))] = 0
        if how.get("BIAS", 0.1) is not None:
            self.add(stem + "moe_statics.e_score_correction_bias", (1, n), how.get("BIAS", 0.1), keep=True)
        for e in range(n):
            self.ffn(f"{stem}experts.{e}.", width)
        if config["moe_num_shared_experts"]:
            self.ffn(stem + "shared_experts.", width * config["moe_num_shared_experts"])


# ---- Spellings ----------------------------------------------------------------------------------


def join(tensors, dtypes, name, parts, stack=False):
    arrays = [tensors.pop(p) for p in parts]
    kinds = [dtypes.pop(p) for p in parts]
    tensors[name] = np.stack(arrays) if stack else np.concatenate(arrays)
    dtypes[name] = kinds[0] if len(set(kinds)) == 1 else "f32"


def spell(tensors, dtypes, spellings):
    """The same weights under the other names and layouts in which they are published."""
    tensors, dtypes = dict(tensors), dict(dtypes)
    if "fused" in spellings:
        for name in [n for n in tensors if n.endswith("q_proj.weight")]:
            stem = name[:-len("q_proj.weight")]
            join(tensors, dtypes, stem + "qkv_proj.weight", [f"{stem}{p}_proj.weight" for p in "qkv"])
        for name in [n for n in tensors if n.endswith("gate_proj.weight")]:
            if "merged" in spellings and ".experts." in name:
                continue
            stem = name[:-len("gate_proj.weight")]
            join(tensors, dtypes, stem + "up_gate_proj.weight", [stem + "gate_proj.weight", stem + "up_proj.weight"])
    for router in [n for n in tensors if n.endswith("mlp.gate.weight")]:
        stem = router[:-len("gate.weight")]
        bias = stem + "moe_statics.e_score_correction_bias"
        if "merged" in spellings:
            experts = [f"{stem}experts.{e}." for e in range(len(tensors[router]))]
            for e in experts:
                join(tensors, dtypes, e + "both", [e + "gate_proj.weight", e + "up_proj.weight"])
            join(tensors, dtypes, stem + "experts.gate_up_proj", [e + "both" for e in experts], stack=True)
            join(tensors, dtypes, stem + "experts.down_proj", [e + "down_proj.weight" for e in experts], stack=True)
        if "transposed_router" in spellings:
            tensors[router] = np.ascontiguousarray(tensors[router].T)
        if "bias_flat" in spellings:
            tensors[bias] = tensors[bias].reshape(-1)
        if "bias_under_gate" in spellings and bias in tensors:
            join(tensors, dtypes, stem + "gate.moe_statics.e_score_correction_bias", [bias])
    if "rotary" in spellings:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, F)
        dtypes["model.layers.0.self_attn.rotary_emb.inv_freq"] = "f32"
    if "ernie" in spellings:
        for name in list(tensors):
            if name.startswith("model."):
                join(tensors, dtypes, "ernie." + name[len("model."):], [name])
    return tensors, dtypes


# ---- Files --------------------------------------------------------------------------------------


def stored(x, dtype):
    if dtype == "bf16":
        return (x.view(np.uint32) >> 16).astype("<u2").tobytes()
    return x.astype("<f2" if dtype == "f16" else "<f4").tobytes()


def write_shard(path, tensors, dtypes, names):
    header, data = {}, []
    at = 0
    for name in names:
        data.append(stored(np.ascontiguousarray(tensors[name]), dtypes[name]))
        header[name] = dict(dtype=dtypes[name].upper(), shape=list(tensors[name].shape),
                            data_offsets=[at, at + len(data[-1])])
        at += len(data[-1])
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))


def write_checkpoint(folder, config, tensors, dtypes, spellings):
    names = list(tensors)
    sharded = "shards" in spellings or "no_index" in spellings
    n = 3 if sharded else 1
    files = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)] if sharded else ["model.safetensors"]
    for i, file in enumerate(files):
        write_shard(os.path.join(folder, file), tensors, dtypes, names[i::n])
    if "shards" in spellings:
        write_json(folder, "model.safetensors.index.json",
                   dict(weight_map={name: files[i % n] for i, name in enumerate(names)}))
    write_json(folder, "config.json", config)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file)


# ---- The reference ------------------------------------------------------------------------------


def reference(config, tensors):
    ernie_ref.load = lambda folder: (config, tensors)
    return ernie_ref.Model(None)


def route_margin(model, tensors, config, ids):
    """The least distance between the last expert chosen and the first that is not, of its score."""
    least, k = np.inf, config.get("moe_k", 0)
    plain = ernie_ref.softmax

    def watch(stem, x, routes):
        nonlocal least
        p = plain(x @ tensors[stem + "gate.weight"].T)
        bias = tensors.get(stem + "moe_statics.e_score_correction_bias")
        score = np.sort(p + (0 if bias is None else bias.reshape(-1)), 1)[:, ::-1]
        if k < score.shape[1]:
            gap = (score[:, k - 1] - score[:, k]) / np.abs(score[:, k - 1])
            least = min(least, float(np.where(gap == 0, np.inf, gap).min()))
        return type(model).moe(model, stem, x, routes)

    model.moe = watch
    out = model.forward(ids)
    del model.moe
    return least, out


def golden(config, how, tensors, seed):
    """The reference's numbers, or None when some choice is a near tie."""
    ids = np.random.default_rng(seed + 1).integers(0, config["vocab_size"], how.get("TOKENS", 24))
    model = reference(config, tensors)
    greedy, margin = [], np.inf
    least, (logits, _, routes, _) = route_margin(model, tensors, config, ids)
    if least < ROUTE_MARGIN:
        return None
    for _ in range(N_GREEDY):
        near, (out, _, _, _) = route_margin(model, tensors, config, np.append(ids, greedy).astype(int))
        best = np.sort(out[-1])
        if near < ROUTE_MARGIN or best[-1] - best[-2] < GREEDY_MARGIN:
            return None
        greedy.append(int(out[-1].argmax()))
    return dict(input_ids=ids.tolist(), greedy=greedy, deviation=float(logits.std()),
                logits=[[float(f"{v:.7g}") for v in row] for row in logits],
                routing=[dict(experts=s.tolist()) for s, _ in routes])


def make(folder, name):
    config, how = SHAPES[name]
    for seed in range(50):
        draw = Draw(config, how, seed)
        numbers = golden(config, how, draw.tensors, seed)
        if numbers:
            break
    else:
        sys.exit(f"{name}: every draw has a near tie")
    os.makedirs(folder)
    written = {k: v for k, v in config.items() if k not in how.get("DROP", [])}
    written.update(how.get("JSON", {}))
    spellings = how.get("SPELL", [])
    write_checkpoint(folder, written, *spell(draw.tensors, draw.dtypes, spellings), spellings)
    write_json(folder, "golden.json", numbers)
    print(f"{name}: seed {seed}, {sum(x.size for x in draw.tensors.values())} weights, "
          f"{len(numbers['input_ids'])} tokens, logit deviation {numbers['deviation']:.2f}")


def main(arguments):
    out, names = arguments[0], arguments[1:] or list(SHAPES)
    for name in names:
        shutil.rmtree(os.path.join(out, name), ignore_errors=True)
        make(os.path.join(out, name), name)
    write_json(out, "golden.json", dict(shapes=names))


if __name__ == "__main__":
    main(sys.argv[1:]) if len(sys.argv) > 1 else sys.exit(__doc__)

"""Lay a text checkpoint of one safetensors file out again as Baidu's -Paddle checkpoints are:
"ernie." names, linears [in, out], qkv_proj and up_gate_proj fused.

    paddle_checkpoint.py SOURCE OUT
"""
import json
import os
import shutil
import struct
import sys

SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def read(path):
    with open(path, "rb") as file:
        data = file.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], data[8 + n + begin:8 + n + end])
    return tensors


def turned(tensor):
    dtype, (rows, cols), data = tensor
    size = SIZES[dtype]
    out = bytearray(len(data))
    for r in range(rows):
        for c in range(cols):
            at, to = (r * cols + c) * size, (c * rows + r) * size
            out[to:to + size] = data[at:at + size]
    return dtype, [cols, rows], bytes(out)


def stacked(tensors):
    rows = sum(shape[0] for _, shape, _ in tensors)
    return tensors[0][0], [rows, tensors[0][1][1]], b"".join(data for _, _, data in tensors)


def lay_out(source):
    out = {}
    fused = {"q_proj": ("qkv_proj", ["q_proj", "k_proj", "v_proj"]),
             "gate_proj": ("up_gate_proj", ["gate_proj", "up_proj"])}
    for name, tensor in source.items():
        part = name.split(".")[-2] if name.endswith(".weight") else ""
        to = name.replace("model.", "ernie.", 1)
        if part in ("k_proj", "v_proj", "up_proj"):
            continue
        if part in fused:
            whole, parts = fused[part]
            tensor = stacked([source[name.replace(part, p)] for p in parts])
            to = to.replace(part, whole)
        if part.endswith("_proj") or part == "gate":
            tensor = turned(tensor)
        out[to] = tensor
    return out


def write(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def main(source, out):
    os.makedirs(out, exist_ok=True)
    shutil.copy(os.path.join(source, "config.json"), out)
    tensors = read(os.path.join(source, "model.safetensors"))
    write(os.path.join(out, "model.safetensors"), lay_out(tensors))


main(*sys.argv[1:])

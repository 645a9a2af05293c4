"""What the paper says about counts: its formulas, the ways in which its printed figures can be read, its headlines.

Plain arithmetic on sizes, for analysis/parameters.py: s holds a model's sizes d, L (layers), V (words), P (positions) …
and what a row states (r, r_q, L_lora, L_adpt, L_LN, l_p, l_i). Formulas: Section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import floor

from analysis.exhibit import Table

Sizes = Mapping[str, int]
UNITS = {"M": (6, 20), "B": (9, 30)}  # millions and billions: powers of ten and of two
TB, GB, MB = 10**12, 10**9, 10**6
NOTATIONS = ("rounded", "cut", "2^20", "zeros")  # how a count can be written, the simplest first

# Why a printed figure does not follow from its row: by model and method, and where that is not enough by the figure.
REASONS: dict[tuple[str, ...], str] = {
    ("deberta-v2-xxlarge", "LoRA"):
        "Table 10's r = 8 gives half of it, unless pooler and classifier are counted, as in no other LoRA row; r = 16, "
        "as in the official scripts, gives it without them",
    ("gpt2-medium", "FT"): "the architecture has a little less; GPT-2 large's figure beside it is exact",
    ("gpt2-medium", "Adapter-H"):
        "no whole r gives it, whichever LayerNorms train; Adapter-L has the same figure, and there it fits",
    ("gpt2-medium", "PreLayer"):
        "no whole number of tokens gives it; 0.1 % of the model does, so it is likely a label from the prior work",
    ("gpt2-medium", "LoRA"): "Table 11's r = 4 gives more; the figure is that of the prefix row, 0.1 % of the model",
    ("gpt2-large", "PreLayer"):
        "no whole number of tokens gives it; 0.1 % of the model does, so it is likely a label from the prior work",
    ("gpt2-large", "LoRA"): "Table 11's r = 4 gives less; the figure is that of the prefix row, 0.1 % of the model",
    ("gpt3-175b", "FT"):
        "more than there is with the output matrix tied to the embedding, and slightly more than with one of its own",
    ("gpt3-175b", "BitFit"): "12 L d would round to it, but a layer of GPT has 11 d biases; the paper has no formula",
    ("gpt3-175b", "PreLayer"): "too high, by 0.8 to 8 %; a layer more is no remedy",
    ("gpt3-175b", "LoRA", "37.7M"): "Appendix D.4 names r = 2 for it, which gives half; Table 15 has r = 4",
    ("gpt3-175b", "LoRA", "603.8M"): "neither rounded nor cut: twice the figure of half as many matrices, itself cut",
    ("gpt3-175b", "LoRA+PL"): "too high, as the prefix-layer rows are",
}


def _weights(s: Sizes) -> int:
    """All weights: embeddings, L layers with d_ffn = 4 d, the last norm or the pooler, DeBERTa's extras."""
    d, layers = s["d"], s["L"] * (12 * s["d"] ** 2 + 13 * s["d"])
    inner = (s["V"] + s["P"] + s["T"]) * d + 2 * d + layers
    if s["buckets"]:  # relative positions and their norm, the convolution and its norm
        return inner + 2 * s["buckets"] * d + 2 * d + s["kernel"] * d * d + 3 * d
    return inner + (d * d + d if s["pooler"] else 0)


def _lora(s: Sizes) -> int:
    ranks = [s[f"r_{target}"] for target in "qkvo" if f"r_{target}" in s]  # one for each matrix of a layer
    return 2 * s["d"] * (s["L"] * sum(ranks) if ranks else s["L_lora"] * s["r"])


def tokens(s: Sizes) -> int:
    """l_p + l_i"""
    return sum(s.get(key, 0) for key in ("l_p", "l_i", "l_p+l_i"))


def _adapter(s: Sizes) -> int:
    return s["L_adpt"] * (2 * s["d"] * s["r"] + s["r"] + s["d"]) + 2 * s["L_LN"] * s["d"]


FORMULAS: dict[str, Callable[[Sizes], int]] = {  # the paper has none for FT-Top2 and BitFit
    "FT": _weights, "LoRA": _lora,
    "FT-Top2": lambda s: 2 * (12 * s["d"] ** 2 + 13 * s["d"]),
    "BitFit": lambda s: 11 * s["L"] * s["d"] + s["d"],
    "Adapter-H": _adapter, "Adapter-L": _adapter, "Adapter-P": _adapter, "Adapter-D": _adapter,
    "PreEmbed": lambda s: s["d"] * tokens(s),
    "PreLayer": lambda s: s["L"] * s["d"] * tokens(s),
    "LoRA+PE": lambda s: _lora(s) + s["d"] * tokens(s),
    "LoRA+PL": lambda s: _lora(s) + s["L"] * s["d"] * tokens(s),
}


def variants(method: str, s: Sizes, body: int, head: int) -> dict[str, list[int]]:
    """Other things that a figure may have counted. body: what trains here; head: the fresh head, with three classes."""
    d, layers, weights = s["d"], s["L"], _weights(s)
    found = {"+head": [body + head - d - 1, body + head]} if head else {}
    if method.startswith("Adapter"):
        found["+LN"] = [body + 2 * layers * d, body + 4 * layers * d]
    if method == "Adapter-L":
        found["-LN"] = [body - 2 * layers * d]
    if method == "FT-Top2":
        found["+final LN"] = [body + 2 * d]
    if method == "BitFit":
        found["linear"] = [9 * layers * d]
    if method in ("PreLayer", "LoRA+PL"):
        found["+layer"] = [body + d * tokens(s)]
    if method == "FT":
        language = d * d + 3 * d + s["V"] if head else s["V"] * d  # RoBERTa's and DeBERTa's · a matrix of its own
        bare = weights - (d * d + d if s["pooler"] else 0)
        found["+LM"] = [bare + language]
        found["bare"] = [bare if head else weights - s["P"] * d]
    else:
        found["0.1 %"] = [weights // 1000]
    return found


def reason(model: str, method: str, printed: str) -> str:
    """Why the built count by itself does not give the printed figure."""
    return REASONS.get((model, method, printed)) or REASONS.get((model, method)) or "nobody has looked into it yet"


def value(printed: str) -> Fraction:
    """What a printed figure says: "175,255.8M" is 175,255,800,000."""
    return Fraction(printed[:-1].replace(",", "")) * 10 ** UNITS[printed[-1]][0]


def notations(count: int, printed: str) -> list[str]:
    """The ways of writing a count that give exactly the printed string, the simplest first."""
    digits = printed[:-1].replace(",", "")
    decimals, target = len(digits.partition(".")[2]), int(digits.replace(".", ""))
    ten, two = (Fraction(count * 10 ** decimals, base ** power) for base, power in
                zip((10, 2), UNITS[printed[-1]], strict=True))
    half, zeros = Fraction(1, 2), 10 ** (len(str(target)) - len(str(target).rstrip("0")))
    written = ([floor(ten + half)], [floor(ten)], [floor(two + half)],
               [zeros * floor(ten / zeros + half), zeros * floor(ten / zeros)] if zeros > 1 else [])
    return [name for name, numbers in zip(NOTATIONS, written, strict=True) if target in numbers]


def fits(method: str, printed: str, built: int, others: Mapping[str, Sequence[int]]) -> list[str]:
    """Every reading that gives the printed string, the simplest first: the count as built, then the variants.

    A count that fits rounded is not tried in other notations, and no variant is tried with M = 2^20."""
    plain = notations(built, printed)
    found = plain[:1] if "rounded" in plain else plain
    ways = ("rounded", "cut", "zeros") if method == "FT" else ("rounded", "cut")
    wide = []
    for name, counts in others.items():
        there = {way for count in counts if count != built for way in notations(count, printed)}
        wide += [(rank, f"{name}, {way}") for rank, way in enumerate(ways) if way in there][:1]
    return found + [reading for _, reading in sorted(wide, key=lambda each: each[0])]


def size(count: float) -> str:
    """Bytes for people, in powers of ten."""
    unit, name = next(((unit, name) for unit, name in ((TB, "TB"), (GB, "GB")) if count >= unit), (MB, "MB"))
    return f"{count / unit:,.2f} {name}" if unit == TB or count < MB else f"{count / unit:,.1f} {name}"


MEMORY = {  # bytes for each trained parameter while Adam trains it; a frozen one takes the 2 of its fp16 weight
    "fp16 throughout: weight 2, two moments 4; gradients freed as soon as used": 6,
    "fp16 throughout: weight 2, gradient 2, two moments 4": 8,
    "usual mixed precision: fp16 weight 2 and gradient 2, fp32 master copy 4 and two moments 8": 16,
}


def headline(full: int, lora: Mapping[int, int]) -> Table:
    """The claims of the abstract and Section 4.2 that follow from counts. full: of the model; lora: by r, q and v."""
    small = lora[4]
    rows = [
        ("trainable parameters (abstract, 7)", "10,000 times fewer",
         "; ".join(f"r = {r}: {full / count:,.0f} times" for r, count in lora.items())),
        ("the smallest part that trains (2)", "as low as 0.01 %",
         "; ".join(f"r = {r}: {100 * count / full:.4f} %" for r, count in lora.items())),
        ("checkpoint, r = 4 (4.2)", "350 GB to 35 MB, 10,000 times",
         f"{size(2 * full)} to {size(2 * small)} ({2 * small / 2**20:.1f} MiB), {full / small:,.0f} times"),
        ("100 adapted models, r = 4 (4.2)", "354 GB against 35 TB",
         f"{size(2 * full + 200 * small)} against {size(200 * full)}"),
        ("training memory, Adam (abstract, 4.2)", "1.2 TB to 350 GB, 3 times less", "depends on what is kept: below"),
        ("the same for any large Transformer (4.2)", "up to 2/3 less", "depends on what is kept: below"),
    ]
    return Table("Headline claims, recomputed", ("claim (section)", "printed", "from the counts"), rows, ())


MEMORY_SAYS = """\
Training memory, below, is without activations. Full fine-tuning pays for every parameter; LoRA with r = 4 pays the same
for its own, and 2 bytes, the fp16 weight, for each frozen one. 350 GB is what the frozen weights take in fp16, in every
model. 1.2 TB lies between the first two and is neither. The first gives the paper's 3 times and 2/3; usual mixed
precision would have given more."""


def memory(full: int, small: int) -> Table:
    """Training memory under each model, for all `full` parameters and for LoRA's `small` beside them frozen."""
    rows = []
    for what, cost in MEMORY.items():
        ft, adapted = cost * full, 2 * full + cost * small
        rows.append((what, f"{cost}", size(ft), size(adapted), f"{ft / adapted:.1f}",
                     f"{100 * (1 - adapted / ft):.1f} %"))
    printed, left = Fraction(12 * TB, 10), 350 * GB
    rows.append(("printed", f"{float(printed / full):.1f}", "1.2 TB", "350 GB", f"{float(printed / left):.1f}",
                 f"{float(100 * (1 - left / printed)):.1f} %"))
    return Table("Training memory with Adam", ("memory model: bytes a trained parameter", "bytes", "FT", "LoRA",
                                               "times less", "saved"), rows, range(1, 6))

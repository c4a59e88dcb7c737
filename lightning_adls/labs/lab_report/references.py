"""Sources of the formats and methods that a run used."""

import json

from lightning_adls.labs.stored import StoredRun

FORMATS = {
    "Integer": "Fixed point, two's complement: a width and the number of bits behind the point.",
    "LearnedInteger": (
        "Esser et al. 2020, *Learned Step Size Quantization*, ICLR, arXiv:1902.08153."
    ),
    "MinifloatIEEE": "IEEE 754-2019, *Standard for Floating-Point Arithmetic*.",
    "MinifloatDenorm": (
        "Zhang et al. 2023, *Revisiting Block-based Quantisation: What is Important for Sub-8-bit "
        "LLM Inference?*, EMNLP, arXiv:2310.05079."
    ),
    "Log": (
        "Miyashita, Lee, Murmann 2016, *Convolutional Neural Networks using Logarithmic Data "
        "Representation*, arXiv:1603.01025."
    ),
    "BlockFP": (
        "Rouhani et al. 2020, *Pushing the Limits of Narrow Precision Inferencing at Cloud Scale "
        "with Microsoft Floating Point*, NeurIPS."
    ),
    "BlockMinifloat": (
        "Fox et al. 2021, *A Block Minifloat Representation for Training Deep Neural Networks*, "
        "ICLR."
    ),
    "BlockLog": (
        "Zhang et al. 2023, *Revisiting Block-based Quantisation: What is Important for Sub-8-bit "
        "LLM Inference?*, EMNLP, arXiv:2310.05079."
    ),
    "MXInt": "Open Compute Project 2023, *OCP Microscaling Formats (MX) Specification*, v1.0.",
    "MXFP": "Open Compute Project 2023, *OCP Microscaling Formats (MX) Specification*, v1.0.",
    "Binary": (
        "Rastegari et al. 2016, *XNOR-Net*, ECCV, arXiv:1603.05279; Courbariaux et al. 2015, "
        "*BinaryConnect*, NeurIPS, arXiv:1511.00363."
    ),
    "ElasticBinary": (
        "Liu et al. 2022, *BiT: Robustly Binarized Multi-distilled Transformer*, NeurIPS, "
        "arXiv:2205.13016."
    ),
    "Ternary": "Li, Liu 2016, *Ternary Weight Networks*, arXiv:1605.04711.",
    "ResidualSign": (
        "Ghasemzadeh, Samragh, Koushanfar 2018, *ReBNet: Residual Binarized Neural Network*, "
        "arXiv:1711.01243."
    ),
}
_LORA = (
    "LoRA: Hu et al. 2021, *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv:2106.09685."
)
_CUBIC = (
    "Pruning in steps: Zhu, Gupta 2017, *To prune, or not to prune: exploring the efficacy of "
    "pruning for model compression*, arXiv:1710.01878."
)
_SEARCH = (
    "Search: Akiba et al. 2019, *Optuna: A Next-generation Hyperparameter Optimization Framework*, "
    "KDD, arXiv:1907.10902."
)
_PED_ANOVA = (
    "Importances: Watanabe et al. 2023, *PED-ANOVA: Efficiently Quantifying Hyperparameter "
    "Importance in Arbitrary Subspaces*, IJCAI, arXiv:2304.10255."
)
_ATTENTION = (
    "Attention: Vaswani et al. 2017, *Attention Is All You Need*, NeurIPS, arXiv:1706.03762."
)
TESTS = (
    "Paired test: McNemar 1947, *Note on the sampling error of the difference between correlated "
    "proportions or percentages*, Psychometrika 12.",
    "Unpaired test: Agresti, Caffo 2000, *Simple and effective confidence intervals for "
    "proportions and differences of proportions*, The American Statistician 54.",
    "Paired interval: Newcombe 1998, *Improved confidence intervals for the difference between "
    "binomial proportions based on paired data*, Statistics in Medicine 17, method 10.",
    "Within one standard error: Breiman, Friedman, Olshen, Stone 1984, *Classification and "
    "Regression Trees*, section 3.4.3.",
)


def references(run: StoredRun) -> list[str]:
    """The sources of what a run used, formats first; those of the tests are ``TESTS``."""
    used = json.dumps([row.get("recipe") for row in run.rows])
    if run.lab == "lab2":
        used = json.dumps(run.config.get("quantize"))
    if run.lab == "lab4":
        used = f"MXInt( {json.dumps(run.config['compiling']['formats'])}"
    found = [f"{name}: {text}" for name, text in FORMATS.items() if _names(used, name)]
    if run.lab == "lab0":
        found.append(_LORA)
    if any(row.get("schedule") == "cubic" for row in run.rows):
        found.append(_CUBIC)
    if run.lab in ("lab2", "lab3"):
        found += [_SEARCH, _PED_ANOVA]
    if run.lab == "lab4":
        found.append(_ATTENTION)
    return found


def _names(text: str, name: str) -> bool:
    """Whether a format is named in a text: alone or with parameters."""
    return (
        f'"{name}"' in text
        or f'"{name}(' in text
        or f" {name}(" in text
        or text.startswith(f"{name}(")
    )

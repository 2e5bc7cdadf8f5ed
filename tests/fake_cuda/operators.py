"""Writes operators.txt: libtorch's operators that have a kernel for CUDA.

    PYTHON operators.py      # a Python with PyTorch's whole CUDA package, such as that of `make bench-peer`

No GPU is needed: the kernels are registered when PyTorch is imported.
"""

import sys
from pathlib import Path

import torch

# Made of others for every device, and asks for a kernel of its device without the dispatcher.
BESIDE_THE_DISPATCHER = {"aten::copy_"}


def has_kernel(operator: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CUDA")


def main() -> None:
    if torch.version.cuda is None:
        sys.exit(f"PyTorch {torch.__version__} was built without CUDA")
    operators = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")}
    found = {name for name in operators if has_kernel(name)} | BESIDE_THE_DISPATCHER
    head = f"# Operators with a kernel for CUDA in PyTorch {torch.__version__}, by operators.py."
    Path(__file__).with_name("operators.txt").write_text("\n".join([head, *sorted(found)]) + "\n")


if __name__ == "__main__":
    main()

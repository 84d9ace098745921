"""Hosts: instruction sets, and the kinds of arithmetic that they execute exactly.

Weights of 8 signed bits need instructions that sum products of bytes in 32 bits. CPUs without them
saturate (see ``kinds``). Detection decides what is offered; a check with extreme values decides
when a package is opened (``backends.onnxruntime_cpu.arithmetic``).
"""

import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from orchestrator.config import StrictModel
from orchestrator.quantization.kinds import WIDE_KINDS, KindName

CPU_INFO: Final = Path("/proc/cpuinfo")
RUNTIME: Final = "onnxruntime"
DOT_PRODUCTS: Final = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Flags of CPUs that sum products of bytes in 32 bits, as Linux names them; the last two: ARM."""
FLAGS: Final = ("avx2", "avx512f", *DOT_PRODUCTS)
"""Flags that are recorded."""
EXACT_KINDS: Final[tuple[KindName, ...]] = ("static_s7", "row_s7", "row_u8", "s7")
"""Kinds that every host executes exactly."""


class Host(StrictModel):
    """Fingerprint of the machine that a plan was measured on."""

    architecture: str
    """As ``uname -m`` has it: x86_64, aarch64."""
    cpu: str
    """Name of the model; "unknown" where the system does not tell."""
    isa: tuple[str, ...]
    """Instruction sets that matter here (``FLAGS``), in that order."""
    runtime: str
    """Name and version of the runtime."""

    @property
    def sums_bytes_exactly(self) -> bool:
        """Whether products of u8 and full-range s8 do not saturate."""
        return any(flag in DOT_PRODUCTS for flag in self.isa)


def parse_host(cpu_info: str, architecture: str, runtime: str) -> Host:
    """Read a fingerprint from the content of ``/proc/cpuinfo``.

    Args:
        cpu_info: Content of the file; empty where there is none.
        architecture: As ``uname -m`` has it.
        runtime: Name and version of the runtime.
    """
    fields = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", cpu_info, re.MULTILINE))
    flags = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    return Host(
        architecture=architecture,
        cpu=fields.get("model name") or fields.get("CPU part") or "unknown",
        isa=tuple(flag for flag in FLAGS if flag in flags),
        runtime=runtime,
    )


@cache
def this_host(runtime: str = RUNTIME) -> Host:
    """Return the fingerprint of this machine.

    Args:
        runtime: Distribution that executes models.
    """
    text = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.is_file() else ""
    try:
        found = f"{runtime} {version(runtime)}"
    except PackageNotFoundError:
        found = "none"
    return parse_host(text, platform.machine(), found)


def exact_kinds(host: Host) -> tuple[KindName, ...]:
    """Return the INT8 kinds that a host executes without saturation."""
    return (*EXACT_KINDS, *WIDE_KINDS) if host.sums_bytes_exactly else EXACT_KINDS

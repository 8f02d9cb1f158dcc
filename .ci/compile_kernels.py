"""Compiles the text of the kernels with NVRTC, as calipr does on a GPU's machine, for GPUs of several generations."""

import ctypes
import ctypes.util
import itertools
import sys

library = ctypes.util.find_library("nvrtc") or "libnvrtc.so"
nvrtc = ctypes.CDLL(library)
source = open(sys.argv[1], "rb").read()
generations = ["compute_75", "compute_80", "compute_90", "compute_100"]
# What calipr compiles them with: precisions, sizes of heads and groups, and a block too wide for shared memory.
constants = [["STORED=0", "DIM=64"], ["STORED=1", "DIM=128"], ["STORED=2", "DIM=80"], ["COLUMNS=4096", "GROUP=8"]]
failed = 0
for generation, given in itertools.product(generations, constants):
    options = [f"--gpu-architecture={generation}", "--fmad=false", *(f"-D{constant}" for constant in given)]
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None) == 0
    arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    if nvrtc.nvrtcCompileProgram(program, len(options), arguments) != 0:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        print(f"{' '.join(options)}:\n{log.value.decode()}", file=sys.stderr)
        failed += 1
print(f"kernels: {len(generations) * len(constants) - failed} of {len(generations) * len(constants)} variants compile")
sys.exit(1 if failed else 0)

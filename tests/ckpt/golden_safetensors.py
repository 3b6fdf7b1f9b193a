"""Makes golden_python.safetensors with Python's own package, and reads a file that Convoy exported with it:
golden_safetensors.py OUTPUT | golden_safetensors.py --read CONVOY_FILE. Needs `pip install safetensors numpy`; run by hand."""
import sys

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

if sys.argv[1] == "--read":
    with safe_open(sys.argv[2], framework="numpy") as file:
        print(file.metadata())
        for name in sorted(file.keys()):
            view = file.get_slice(name)
            print(name, view.get_dtype(), view.get_shape())
            if view.get_dtype() == "F32" and view.get_shape() and 0 not in view.get_shape():
                tensor = file.get_tensor(name)
                seed = 0
                for c in name.encode():
                    seed = (seed * 31 + c) % 61
                wanted = (numpy.arange(tensor.size) * 7 + seed + 10 * 3) % 127 / 8 - 4  # tests/ckpt/small_model.cc, step 10
                assert (tensor.reshape(-1) == wanted.astype(numpy.float32)).all(), name
else:
    save_file({"w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3) / 2,
               "half": numpy.array([1, -2, 0.5], dtype=numpy.float16),
               "scalar": numpy.array(7, dtype=numpy.int64),
               "empty": numpy.zeros((0, 4), dtype=numpy.uint8),
               "flags": numpy.array([True, False])}, sys.argv[1], metadata={"format": "pt"})

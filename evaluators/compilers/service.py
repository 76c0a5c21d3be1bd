"""A process of its own for one of XLA's compilers: its crashes and its log stay there.

Run as `python -m paretax.evaluators.compilers.service`. It reads requests from its standard input
and answers on its standard output, each a JSON object and a block of bytes. Whatever a compiler
prints goes to standard error, which the parent keeps in a file.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import IO, Any

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # the devices are described, not there
    "TPU_SKIP_MDS_QUERY": "1",  # no machine of Google's cloud is asked for its TPU
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nobody holds a TPU: several processes may compile
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # compiling needs no cuDNN, so none is installed
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

_SIZES = struct.Struct("<QQ")


def write_message(stream: IO[bytes], header: dict[str, Any], block: bytes = b"") -> None:
    """Send one message: the sizes, the header as JSON, the block."""
    head = json.dumps(header).encode()
    stream.write(_SIZES.pack(len(head), len(block)) + head + block)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Receive one message.

    Raises:
        EOFError: the other side is gone.
    """
    head, block = _SIZES.unpack(_exactly(stream, _SIZES.size))
    return json.loads(_exactly(stream, head)), _exactly(stream, block)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) != size:
        raise EOFError("the stream ended within a message")
    return found


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not an answer
    os.environ.update(ENVIRONMENT)
    from paretax.evaluators.compilers.xla import REFUSALS, compile_exported

    write_message(answers, {"ready": True})
    while True:
        try:
            request, exported = read_message(sys.stdin.buffer)
        except EOFError:
            return
        try:
            program = compile_exported(exported, request["settings"], request["fingerprint"])
        except (
            REFUSALS
        ) as error:  # anything else ends the process, and the parent has its last words
            write_message(answers, {"error": f"{type(error).__name__}: {error}"})
        else:
            write_message(answers, {"program": program.to_json()}, program.text.encode())


if __name__ == "__main__":
    main()

"""What programmatic dependent launch would save an edge of a CUDA graph. This script has not run yet, on any GPU.

Chains of empty kernels, recorded from a stream: `plain`; `waits` with the attribute, each waiting for the one before at
its start; `lets_in` also letting the next one in before. Prints microseconds a kernel, medians of replays by turns.
Needs cuda-bindings, NVRTC and a GPU of compute capability 9.0 or more; says so in a sentence where they are missing.
"""

import statistics
import sys
import tempfile
from pathlib import Path

from gpucnn.backends.cuda.compiler import translate

LENGTH, REPLAYS, THREADS = 140, 50, 128  # resnet20's step has about so many launches
GRIDS = 1, 132, 1024
KERNELS = {  # and what they consist of
    "plain": "",
    "waits": 'asm volatile("griddepcontrol.wait;" ::: "memory");',
    "lets_in": 'asm volatile("griddepcontrol.launch_dependents;\\n\\tgriddepcontrol.wait;" ::: "memory");',
}


def main() -> None:
    """See the top of this file."""
    from cuda.bindings import driver

    def call(name: str, *arguments):
        status, *results = getattr(driver, name)(*arguments)
        if status != driver.CUresult.CUDA_SUCCESS:
            sys.exit(f"{name} failed: {status.name}")
        return results[0] if results else None

    def recorded(kernel: str, grid: int):
        config, attribute = driver.CUlaunchConfig(), driver.CUlaunchAttribute()
        config.gridDimX, config.blockDimX, config.hStream = grid, THREADS, stream
        config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = ([], 0) if kernel == "plain" else ([attribute], 1)
        function = call("cuModuleGetFunction", module, made.symbols[kernel].encode())
        call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        for _ in range(LENGTH):
            call("cuLaunchKernelEx", config, function, 0, 0)
        return call("cuGraphInstantiate", call("cuStreamEndCapture", stream), 0)

    def microseconds(graph) -> float:
        call("cuEventRecord", begin, stream)
        call("cuGraphLaunch", graph, stream)
        call("cuEventRecord", end, stream)
        call("cuEventSynchronize", end)
        return 1e3 * call("cuEventElapsedTime", begin, end) / LENGTH

    call("cuInit", 0)
    device, kind = call("cuDeviceGet", 0), "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_"
    numbers = [getattr(driver.CUdevice_attribute, kind + part) for part in ("MAJOR", "MINOR")]
    major, minor = (call("cuDeviceGetAttribute", number, device) for number in numbers)
    if major < 9:
        sys.exit(f"this GPU has compute capability {major}.{minor}; programmatic dependent launch needs 9.0")
    call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", device))
    with tempfile.TemporaryDirectory() as folder:
        source = "\n".join(f"__global__ void {name}() {{ {body} }}" for name, body in KERNELS.items())
        (Path(folder) / "chain.cu").write_text(source)
        made = translate("chain.cu", list(KERNELS), [f"--gpu-architecture=sm_{major}{minor}"], folder=Path(folder))
    module, stream = call("cuModuleLoadData", made.code), call("cuStreamCreate", 1)  # not blocking
    begin, end = call("cuEventCreate", 0), call("cuEventCreate", 0)
    for grid in GRIDS:
        graphs = {kernel: recorded(kernel, grid) for kernel in KERNELS}
        times = [{kernel: microseconds(graph) for kernel, graph in graphs.items()} for _ in range(REPLAYS)]
        print(f"{grid} blocks:", {kernel: round(statistics.median(t[kernel] for t in times), 3) for kernel in KERNELS})


if __name__ == "__main__":
    try:
        main()
    except (ImportError, RuntimeError) as error:
        sys.exit(f"this needs cuda-bindings, NVRTC and an NVIDIA driver: {str(error).splitlines()[0]}")

// CUDA's error codes: those that this project names or the emulator gives.
#pragma once

#define HYMBA_EMULATOR_ERRORS(X)                                                    \
  X(cudaSuccess, 0, "no error")                                                     \
  X(cudaErrorInvalidValue, 1, "invalid argument")                                   \
  X(cudaErrorMemoryAllocation, 2, "out of memory")                                  \
  X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")             \
  X(cudaErrorInsufficientDriver, 35, "CUDA driver version is insufficient")         \
  X(cudaErrorInvalidDeviceFunction, 98, "invalid device function")                  \
  X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                   \
  X(cudaErrorInvalidDevice, 101, "invalid device ordinal")                          \
  X(cudaErrorNoKernelImageForDevice, 209, "no kernel image for the device")         \
  X(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered")          \
  X(cudaErrorNvlinkUncorrectable, 220, "uncorrectable NVLink error detected")       \
  X(cudaErrorUnsupportedPtxVersion, 222, "unsupported PTX version")                 \
  X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                 \
  X(cudaErrorNotReady, 600, "device not ready")                                     \
  X(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered")       \
  X(cudaErrorLaunchOutOfResources, 701, "too many resources requested for launch")  \
  X(cudaErrorLaunchTimeout, 702, "the launch timed out and was terminated")         \
  X(cudaErrorAssert, 710, "device-side assert triggered")                           \
  X(cudaErrorHardwareStackError, 714, "hardware stack error")                       \
  X(cudaErrorIllegalInstruction, 715, "an illegal instruction was encountered")     \
  X(cudaErrorMisalignedAddress, 716, "misaligned address")                          \
  X(cudaErrorInvalidAddressSpace, 717, "operation not supported on address space")  \
  X(cudaErrorInvalidPc, 718, "invalid program counter")                             \
  X(cudaErrorLaunchFailure, 719, "unspecified launch failure")                      \
  X(cudaErrorNotSupported, 801, "operation not supported")                          \
  X(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted in a capture") \
  X(cudaErrorStreamCaptureInvalidated, 901, "a capture was invalidated")            \
  X(cudaErrorUnknown, 999, "unknown error")

enum cudaError_t {
#define X(name, value, text) name = value,
  HYMBA_EMULATOR_ERRORS(X)
#undef X
};

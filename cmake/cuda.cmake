# Decides whether the CUDA backend is built, says so, and sets
#   HYMBA_WITH_CUDA           whether it is
#   HYMBA_CUDA_VERSION        the toolkit's version, "emulated", or "none" and the reason
#   HYMBA_CUDA_ARCHITECTURES  what the kernels are compiled for, "emulated" or "none"

# Finds a working nvcc. Sets CMAKE_CUDA_COMPILER, or `problem`.
macro(hymba_find_nvcc)
  if(NOT CMAKE_CUDA_COMPILER)
    # Look again at every configure: a toolkit may have been installed in between.
    unset(CMAKE_CUDA_COMPILER CACHE)
    # CMake searches the PATH and CUDACXX only; the toolkit's installer puts nvcc into neither.
    if(NOT DEFINED ENV{CUDACXX})
      find_program(HYMBA_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
        PATH_SUFFIXES bin)
      if(HYMBA_NVCC)
        set(ENV{CUDACXX} ${HYMBA_NVCC})
      endif()
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(problem "")
  elseif(DEFINED ENV{CUDACXX})
    set(problem "$ENV{CUDACXX} does not work")
  else()
    set(problem "nvcc not found")
  endif()
endmacro()

if(HYMBA_CUDA STREQUAL "EMULATED")
  set(problem "")
elseif(HYMBA_CUDA STREQUAL "OFF")
  set(problem "HYMBA_CUDA is OFF")
else()
  hymba_find_nvcc()
  if(problem AND HYMBA_CUDA STREQUAL "ON")
    message(FATAL_ERROR "hymba: HYMBA_CUDA is ON, but ${problem}. Install the CUDA toolkit, or name "
      "its nvcc in CUDACXX.")
  endif()
endif()

if(problem)
  set(HYMBA_WITH_CUDA OFF)
  set(HYMBA_CUDA_VERSION "none (${problem})")
  set(HYMBA_CUDA_ARCHITECTURES "none")
  message(NOTICE "hymba: ${problem}, building for the CPU only")
elseif(HYMBA_CUDA STREQUAL "EMULATED")
  set(HYMBA_WITH_CUDA ON)
  set(HYMBA_CUDA_VERSION "emulated")
  set(HYMBA_CUDA_ARCHITECTURES "emulated")
  message(NOTICE "hymba: building with an emulated CUDA, which is for tests")
else()
  set(HYMBA_WITH_CUDA ON)
  # Machine code for the parts that we tune for, and PTX (`90` without `-real`) for newer ones.
  set(hymba_targets_default "80-real;89-real;90")
  if(DEFINED ENV{HYMBA_CUDA_TARGETS})
    set(hymba_targets_default $ENV{HYMBA_CUDA_TARGETS})
  endif()
  set(HYMBA_CUDA_TARGETS ${hymba_targets_default} CACHE STRING
      "What kernels are compiled for, as CMAKE_CUDA_ARCHITECTURES: one target builds faster")
  set(CMAKE_CUDA_ARCHITECTURES ${HYMBA_CUDA_TARGETS})
  # CMakeLists.txt links the static runtime by its path, which works for every layout of the toolkit.
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" HYMBA_CUDA_VERSION "${CMAKE_CUDA_COMPILER_VERSION}")
  list(JOIN HYMBA_CUDA_TARGETS ", " HYMBA_CUDA_ARCHITECTURES)
  message(NOTICE
    "hymba: building with CUDA ${HYMBA_CUDA_VERSION} for ${HYMBA_CUDA_ARCHITECTURES}")
endif()

# Every option of the build. Parts around the library are AUTO: built when ernie is the top project
# and what they need is there; ON makes a missing package an error, OFF leaves the part out.

if(PROJECT_IS_TOP_LEVEL)
  set(ernie_part_default AUTO)
  set(ernie_install_default ON)
else()
  set(ernie_part_default OFF)
  set(ernie_install_default OFF)
endif()

# Who builds to use wants the library and the program; the presets ask for the rest.
foreach(part TOOLS EXAMPLES TESTS BENCH)
  if(part MATCHES "TESTS|BENCH")
    set(ernie_part_default OFF)
  endif()
  set(ERNIE_${part} ${ernie_part_default} CACHE STRING "Build this part: AUTO, ON or OFF")
  set_property(CACHE ERNIE_${part} PROPERTY STRINGS AUTO ON OFF)
endforeach()

option(BUILD_SHARED_LIBS "Build ernie as a shared library" OFF)
option(ERNIE_OPENMP "Run the worker team with OpenMP instead of ernie's own threads" OFF)
option(ERNIE_INSTALL "Make install rules" ${ernie_install_default})
option(ERNIE_WERROR "Treat warnings as errors" OFF)
option(ERNIE_FUZZ "Build the fuzz targets with libFuzzer (clang only)" OFF)
set(ERNIE_SANITIZE "" CACHE STRING "Sanitizers to build with, such as address,undefined or thread")

set(ernie_shared_default "$ENV{ERNIE_SHARED}")
if(NOT ernie_shared_default AND EXISTS "${PROJECT_SOURCE_DIR}/../shared/data/README.md")
  get_filename_component(ernie_shared_default "${PROJECT_SOURCE_DIR}/../shared" ABSOLUTE)
endif()
set(ERNIE_SHARED "${ernie_shared_default}" CACHE PATH
  "Folder with data/ (checkpoints and golden values); tests that need it are skipped without")

set(ERNIE_TEST_PREFIX "" CACHE STRING "Put before every test's name, such as asan.")
set(ERNIE_TEST_LABELS "" CACHE STRING
  "Build only the tests that carry one of these labels (a list); empty means all")

if(PROJECT_IS_TOP_LEVEL)
  get_property(ernie_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  if(NOT CMAKE_BUILD_TYPE AND NOT ernie_multi_config)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
  endif()
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

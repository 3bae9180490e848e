# What ernie builds with. The library needs a C compiler, threads, libm and xxhash.h; each part
# around it names its own packages (Debian's names in the messages).

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

set(ERNIE_LIBM "")
if(UNIX AND NOT APPLE)
  set(ERNIE_LIBM m)
endif()

find_path(ERNIE_XXHASH_INCLUDE_DIR xxhash.h DOC "Folder of xxhash.h")
mark_as_advanced(ERNIE_XXHASH_INCLUDE_DIR)
if(NOT ERNIE_XXHASH_INCLUDE_DIR)
  message(FATAL_ERROR "xxhash.h not found: install libxxhash-dev (Debian), xxhash-devel (Fedora) "
    "or xxhash (Homebrew), or set ERNIE_XXHASH_INCLUDE_DIR to its folder")
endif()
if(CMAKE_CROSSCOMPILING)
  # The host's include folder would bring the host's other headers along: take the one file.
  configure_file("${ERNIE_XXHASH_INCLUDE_DIR}/xxhash.h"
    "${PROJECT_BINARY_DIR}/xxhash/xxhash.h" COPYONLY)
  set(ERNIE_XXHASH_INCLUDE_DIR "${PROJECT_BINARY_DIR}/xxhash")
endif()

if(ERNIE_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS C)
endif()

# ernie_find(name header): target ernie_dep::name when lib<name> and its header are there.
function(ernie_find name header)
  if(TARGET ernie_dep::${name})
    return()
  endif()
  string(TOUPPER ${name} upper)
  find_path(ERNIE_${upper}_INCLUDE_DIR ${header})
  find_library(ERNIE_${upper}_LIBRARY ${name})
  mark_as_advanced(ERNIE_${upper}_INCLUDE_DIR ERNIE_${upper}_LIBRARY)
  if(ERNIE_${upper}_INCLUDE_DIR AND ERNIE_${upper}_LIBRARY)
    add_library(ernie_dep::${name} UNKNOWN IMPORTED GLOBAL)
    set_target_properties(ernie_dep::${name} PROPERTIES
      IMPORTED_LOCATION "${ERNIE_${upper}_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${ERNIE_${upper}_INCLUDE_DIR}")
  endif()
endfunction()

# ernie_part(part needs...): settle an AUTO option: every target in `needs` must exist.
macro(ernie_part part)
  if(ERNIE_${part})
    foreach(need ${ARGN})
      if(NOT TARGET ernie_dep::${need})
        if(ERNIE_${part} STREQUAL "AUTO")
          message(STATUS "ernie: ERNIE_${part} is off because lib${need} (package lib${need}-dev) "
            "was not found")
          set(ERNIE_${part} OFF)
          break()
        endif()
        message(FATAL_ERROR "ERNIE_${part} needs lib${need}: install lib${need}-dev")
      endif()
    endforeach()
  endif()
endmacro()

if(ERNIE_TOOLS)
  ernie_find(jansson jansson.h)
endif()
if(ERNIE_TESTS)
  ernie_find(cmocka cmocka.h)
  if(CMAKE_CROSSCOMPILING AND NOT TARGET ernie_dep::cmocka)
    # The tests that run on an emulated system bring what they use of cmocka themselves.
    add_library(ernie_dep::cmocka INTERFACE IMPORTED GLOBAL)
    set_target_properties(ernie_dep::cmocka PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${PROJECT_SOURCE_DIR}/tests/mini")
  endif()
endif()
ernie_part(TOOLS jansson)
ernie_part(TESTS cmocka)

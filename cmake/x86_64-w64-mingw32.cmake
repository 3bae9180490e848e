# Cross build for 64-bit Windows with Debian's gcc-mingw-w64-x86-64. Programs run under wine where
# it is installed, in a prefix of the build folder; elsewhere their tests are reported as skipped.
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER x86_64-w64-mingw32-gcc)
set(CMAKE_RC_COMPILER x86_64-w64-mingw32-windres)

find_program(ERNIE_WINE NAMES wine64 wine64-stable PATHS /usr/lib/wine NO_CMAKE_FIND_ROOT_PATH)
mark_as_advanced(ERNIE_WINE)
if(ERNIE_WINE)
  set(CMAKE_CROSSCOMPILING_EMULATOR
    env "WINEPREFIX=${CMAKE_BINARY_DIR}/wine" WINEDEBUG=-all "${ERNIE_WINE}")
else()
  set(CMAKE_CROSSCOMPILING_EMULATOR sh -c "echo skipped: no wine && exit 77")
endif()

set(CMAKE_FIND_ROOT_PATH /usr/x86_64-w64-mingw32)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# xxhash.h has no machine-dependent parts outside itself: the host's copy serves.
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)

# Programs carry the compiler's run-time library, so that they start anywhere.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)

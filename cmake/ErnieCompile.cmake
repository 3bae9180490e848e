# How our own code is compiled. Nothing here leaks into a project that includes ernie.

set(ERNIE_WARNINGS
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wundef
  -Wvla -Wformat=2)

# ernie_compile(target): C11, hidden names, no fused multiply-add but the ones we write (so that
# instruction sets agree to the last bit), our warnings.
function(ernie_compile target)
  set_target_properties(${target} PROPERTIES
    C_STANDARD 11
    C_STANDARD_REQUIRED ON
    C_EXTENSIONS OFF
    C_VISIBILITY_PRESET hidden)
  target_compile_definitions(${target} PRIVATE _FILE_OFFSET_BITS=64
    "$<$<CONFIG:Debug>:ERNIE_ASSERTS>")
  if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
    target_compile_options(${target} PRIVATE -ffp-contract=off
      "$<$<COMPILE_LANGUAGE:C>:${ERNIE_WARNINGS}>" "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>")
    if(ERNIE_WERROR)
      target_compile_options(${target} PRIVATE -Werror)
    endif()
  elseif(MSVC)
    target_compile_options(${target} PRIVATE /W3 /fp:precise /utf-8)
    target_compile_definitions(${target} PRIVATE _CRT_SECURE_NO_WARNINGS WIN32_LEAN_AND_MEAN)
  endif()
endfunction()

if(ERNIE_SANITIZE)
  add_compile_options(-fsanitize=${ERNIE_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${ERNIE_SANITIZE})
endif()

# Coverage feedback for libFuzzer in everything that a fuzz target may reach.
if(ERNIE_FUZZ)
  if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "ERNIE_FUZZ needs clang: use the fuzz preset")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# How a test is declared. Every test gets a label or more, a prefix that names the suite (asan., ...),
# ERNIE_SHARED in its environment, and 77 as the exit status that means skipped.

# ernie_test_wanted(out labels...): true unless this build is restricted to other labels.
function(ernie_test_wanted out)
  set(wanted FALSE)
  if(NOT ERNIE_TEST_LABELS)
    set(wanted TRUE)
  endif()
  foreach(label ${ARGN})
    if(label IN_LIST ERNIE_TEST_LABELS)
      set(wanted TRUE)
    endif()
  endforeach()
  set(${out} ${wanted} PARENT_SCOPE)
endfunction()

# ernie_add_test(name LABELS l... COMMAND c... [SETUP fixture] [NEEDS fixture] [ENV NAME=value...]
#                [SERIAL])
function(ernie_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "SERIAL" "SETUP;NEEDS" "LABELS;COMMAND;ENV")
  ernie_test_wanted(wanted ${arg_LABELS})
  if(NOT wanted)
    return()
  endif()
  set(full "${ERNIE_TEST_PREFIX}${name}")
  add_test(NAME "${full}" COMMAND ${arg_COMMAND})
  set(environment ${arg_ENV})
  if(ERNIE_SHARED)
    list(APPEND environment "ERNIE_SHARED=${ERNIE_SHARED}")
  endif()
  if(ERNIE_SANITIZE)
    list(APPEND environment
      "ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1"
      "UBSAN_OPTIONS=print_stacktrace=1"
      "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1")
  endif()
  set_tests_properties("${full}" PROPERTIES
    LABELS "${arg_LABELS}"
    SKIP_RETURN_CODE 77
    TIMEOUT 600
    ENVIRONMENT "${environment}")
  if(arg_SERIAL)
    set_tests_properties("${full}" PROPERTIES RUN_SERIAL TRUE)
  endif()
  if(arg_SETUP)
    set_tests_properties("${full}" PROPERTIES
      FIXTURES_SETUP "${ERNIE_TEST_PREFIX}${arg_SETUP}")
  endif()
  if(arg_NEEDS)
    set_tests_properties("${full}" PROPERTIES
      FIXTURES_REQUIRED "${ERNIE_TEST_PREFIX}${arg_NEEDS}")
  endif()
endfunction()

# ernie_add_unit_test(name source... [SUITE unit] [LABELS l...] [LINK libraries...] [ARGS a...]):
# a cmocka program test_<name> and one test <suite>.<name>, labelled with its suite too.
function(ernie_add_unit_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "SERIAL" "SUITE" "LABELS;LINK;ARGS;ENV")
  if(NOT arg_SUITE)
    set(arg_SUITE unit)
  endif()
  ernie_test_wanted(wanted ${arg_SUITE} ${arg_LABELS})
  if(NOT wanted)
    return()
  endif()
  set(target test_${name})
  add_executable(${target} ${arg_UNPARSED_ARGUMENTS})
  ernie_compile(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${target} PRIVATE ${arg_LINK} ernie_internal ernie_dep::cmocka)
  set(serial "")
  if(arg_SERIAL)
    set(serial SERIAL)
  endif()
  ernie_add_test(${arg_SUITE}.${name} ${serial}
    LABELS ${arg_SUITE} ${arg_LABELS}
    ENV ${arg_ENV}
    COMMAND ${target} ${arg_ARGS})
endfunction()

# ernie_add_fuzz_target(name source... [LINK libraries...]): fuzz_<name>, which replays the corpus as
# a test; with ERNIE_FUZZ the same source becomes a libFuzzer program instead.
function(ernie_add_fuzz_target name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LABELS;LINK")
  ernie_test_wanted(wanted fuzz ${arg_LABELS})
  if(NOT wanted)
    return()
  endif()
  set(target fuzz_${name})
  add_executable(${target} ${arg_UNPARSED_ARGUMENTS})
  ernie_compile(${target})
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${target} PRIVATE ${arg_LINK} ernie_internal)
  set(options "")
  if(ERNIE_FUZZ)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    set(options -runs=0)
  else()
    target_sources(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.c")
  endif()
  ernie_add_test(fuzz.${name}
    LABELS fuzz ${arg_LABELS}
    COMMAND ${target} ${options} "${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name}")
endfunction()

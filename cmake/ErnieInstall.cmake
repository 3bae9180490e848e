# Install rules: header, library, program, CMake package, pkg-config file, documents.

include(CMakePackageConfigHelpers)

install(TARGETS ernie EXPORT ernie-targets
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT runtime
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT development
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development)
install(FILES "${PROJECT_SOURCE_DIR}/ernie.h"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT development)
if(TARGET ernie_program)
  install(TARGETS ernie_program RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT runtime)
endif()

set(ernie_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/ernie")
install(EXPORT ernie-targets NAMESPACE ernie:: DESTINATION "${ernie_cmake_dir}"
  COMPONENT development)
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/ernie-config.cmake.in"
  "${PROJECT_BINARY_DIR}/ernie-config.cmake" INSTALL_DESTINATION "${ernie_cmake_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/ernie-config-version.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/ernie-config.cmake"
  "${PROJECT_BINARY_DIR}/ernie-config-version.cmake"
  DESTINATION "${ernie_cmake_dir}" COMPONENT development)

# A static archive carries its needs in Libs, a shared library in Libs.private.
set(ernie_pc_needs "")
if(ERNIE_LIBM)
  string(APPEND ernie_pc_needs " -l${ERNIE_LIBM}")
endif()
if(CMAKE_THREAD_LIBS_INIT)
  string(APPEND ernie_pc_needs " ${CMAKE_THREAD_LIBS_INIT}")
endif()
if(ERNIE_OPENMP)
  string(APPEND ernie_pc_needs " ${OpenMP_C_FLAGS}")
endif()
if(BUILD_SHARED_LIBS)
  set(ernie_pc_libs "")
  set(ernie_pc_libs_private "${ernie_pc_needs}")
else()
  set(ernie_pc_libs "${ernie_pc_needs}")
  set(ernie_pc_libs_private "")
endif()
# Relative to the file's own place, so that a moved or staged tree still works.
file(RELATIVE_PATH ernie_pc_prefix
  "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
configure_file("${PROJECT_SOURCE_DIR}/cmake/ernie.pc.in" "${PROJECT_BINARY_DIR}/ernie.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/ernie.pc"
  DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT development)

install(FILES LICENSE README.md CHANGELOG.md DESTINATION "${CMAKE_INSTALL_DOCDIR}"
  COMPONENT development)
install(DIRECTORY docs/ DESTINATION "${CMAKE_INSTALL_DOCDIR}/docs" COMPONENT development
  FILES_MATCHING PATTERN "*.md")

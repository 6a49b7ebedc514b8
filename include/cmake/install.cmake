# What `cmake --install` puts where: the headers, what find_package and pkg-config read, and the licence;
# none of it depends on the machine, and all of it may be moved together.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/loraplus")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/loraplus" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/loraplus")

install(TARGETS loraplus EXPORT loraplus INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT loraplus NAMESPACE loraplus:: FILE loraplus-targets.cmake DESTINATION "${package_dir}")
if(TARGET loraplus_io)
  install(TARGETS loraplus_io EXPORT loraplus-io)
  install(EXPORT loraplus-io NAMESPACE loraplus:: FILE loraplus-io-targets.cmake DESTINATION "${package_dir}")
endif()
configure_file("${CMAKE_CURRENT_LIST_DIR}/loraplus-config.cmake.in" loraplus-config.cmake @ONLY)
# While the major version is 0, a minor version may break.
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(compatibility SameMinorVersion)
else()
  set(compatibility SameMajorVersion)
endif()
write_basic_package_version_file(loraplus-config-version.cmake COMPATIBILITY ${compatibility} ARCH_INDEPENDENT)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/loraplus-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/loraplus-config-version.cmake"
        DESTINATION "${package_dir}")

# From the folder of the .pc files to the headers: right wherever both have been moved to.
file(RELATIVE_PATH to_include "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig" "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
set(pkgconfig_files loraplus.pc)
if(LORAPLUS_IO)
  list(APPEND pkgconfig_files loraplus-io.pc)
endif()
foreach(file IN LISTS pkgconfig_files)
  configure_file("${CMAKE_CURRENT_LIST_DIR}/${file}.in" ${file} @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${file}" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
endforeach()

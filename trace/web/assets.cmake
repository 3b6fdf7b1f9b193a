# cmake -D FOLDER=… -D OUT=assets.cc -P assets.cmake: the files of a folder as C++. The scripts become one, /app.js, in the order of
# their names; all else keeps its name.
file(GLOB files ${FOLDER}/*)
list(SORT files)
set(script "")
set(entries "")
set(arrays "")
set(number 0)

function(add_asset path type hex)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
  set(arrays "${arrays}const unsigned char kBytes${number}[] = {\n${bytes}0};\n" PARENT_SCOPE)
  set(entries "${entries}    {\"${path}\", \"${type}\", {reinterpret_cast<const char*>(kBytes${number}), sizeof kBytes${number} - 1}},\n" PARENT_SCOPE)
  math(EXPR next "${number} + 1")
  set(number ${next} PARENT_SCOPE)
endfunction()

foreach(file IN LISTS files)
  get_filename_component(name ${file} NAME)
  file(READ ${file} hex HEX)
  if(name MATCHES "\\.js$")
    string(APPEND script "${hex}0a")
  elseif(name MATCHES "\\.html$")
    add_asset("/${name}" "text/html; charset=utf-8" "${hex}")
  elseif(name MATCHES "\\.css$")
    add_asset("/${name}" "text/css; charset=utf-8" "${hex}")
  elseif(name MATCHES "\\.svg$")
    add_asset("/${name}" "image/svg+xml" "${hex}")
  endif()
endforeach()
add_asset("/app.js" "text/javascript; charset=utf-8" "${script}")

file(WRITE ${OUT}.new "// Made by trace/web/assets.cmake.
#include \"trace/web/assets.h\"

namespace convoy::trace {
namespace {
${arrays}
const Asset kAssets[] = {
${entries}};
}  // namespace

const Asset* find_asset(std::string_view path) {
  for (const Asset& asset : kAssets) {
    if (asset.path == path) return &asset;
  }
  return nullptr;
}

}  // namespace convoy::trace
")
file(RENAME ${OUT}.new ${OUT})

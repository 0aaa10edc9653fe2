#include "emulator/symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <unordered_map>

namespace emulator {
namespace {

struct Symbol {
  const char* name;
  uintptr_t begin;
  size_t bytes;
  bool is_function;
  bool is_zeroed;
};

// All symbols, the hidden ones too, which dladdr() does not know.
class SymbolTable {
 public:
  SymbolTable() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&table_of_this_library), &info) == 0) return;
    std::ifstream file(info.dli_fname, std::ios::binary);
    if (!file) file.open("/proc/self/exe", std::ios::binary);
    image_.assign(std::istreambuf_iterator<char>(file), {});
    if (image_.size() < sizeof(Elf64_Ehdr) || std::memcmp(image_.data(), ELFMAG, SELFMAG) != 0)
      return;
    const auto* header = at<Elf64_Ehdr>(0);
    const auto* sections = at<Elf64_Shdr>(header->e_shoff);
    const uintptr_t base =
        header->e_type == ET_DYN ? reinterpret_cast<uintptr_t>(info.dli_fbase) : 0;
    for (int i = 0; i < header->e_shnum; ++i) {
      if (sections[i].sh_type != SHT_SYMTAB) continue;
      const char* names = at<char>(sections[sections[i].sh_link].sh_offset);
      const auto* entries = at<Elf64_Sym>(sections[i].sh_offset);
      for (size_t j = 0; j < sections[i].sh_size / sizeof(Elf64_Sym); ++j) {
        const Elf64_Sym& entry = entries[j];
        if (entry.st_shndx == SHN_UNDEF || entry.st_shndx >= header->e_shnum) continue;
        const int type = ELF64_ST_TYPE(entry.st_info);
        if (type != STT_FUNC && type != STT_OBJECT) continue;
        symbols_.push_back({names + entry.st_name, base + entry.st_value, entry.st_size,
                            type == STT_FUNC, sections[entry.st_shndx].sh_type == SHT_NOBITS});
      }
    }
  }

  const Symbol* function_at(const void* address) const {
    const auto value = reinterpret_cast<uintptr_t>(address);
    for (const Symbol& symbol : symbols_)
      if (symbol.is_function && value >= symbol.begin && value < symbol.begin + symbol.bytes)
        return &symbol;
    return nullptr;
  }

  const std::vector<Symbol>& all() const { return symbols_; }

 private:
  static void table_of_this_library() {}

  template <typename T>
  const T* at(size_t offset) const {
    return reinterpret_cast<const T*>(image_.data() + offset);
  }

  std::vector<char> image_;
  std::vector<Symbol> symbols_;
};

const SymbolTable& table() {
  static const SymbolTable symbols;
  return symbols;
}

}  // namespace

std::string symbol_name(const void* address) {
  const Symbol* symbol = table().function_at(address);
  if (symbol == nullptr) {
    char text[32];
    std::snprintf(text, sizeof text, "%p", address);
    return text;
  }
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(symbol->name, nullptr, nullptr, &status), std::free);
  return status == 0 ? name.get() : symbol->name;
}

const std::vector<MemoryRange>& static_variables(const void* function) {
  static std::unordered_map<const void*, std::vector<MemoryRange>> known;
  const auto [found, is_new] = known.try_emplace(function);
  const Symbol* symbol = is_new ? table().function_at(function) : nullptr;
  if (symbol != nullptr && std::strncmp(symbol->name, "_Z", 2) == 0) {
    // The mangled name of a variable in the function _Z… is _ZZ…E and the variable's.
    const std::string prefix = "_ZZ" + std::string(symbol->name + 2) + "E";
    for (const Symbol& variable : table().all())
      if (!variable.is_function && variable.is_zeroed &&
          std::strncmp(variable.name, prefix.c_str(), prefix.size()) == 0)
        found->second.push_back({reinterpret_cast<char*>(variable.begin), variable.bytes});
  }
  return found->second;
}

}  // namespace emulator

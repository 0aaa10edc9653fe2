// A file mapped into memory, read only.
#pragma once

#include <cstddef>
#include <string>

namespace hymba {

class MappedFile {
 public:
  // Throws kModelFormat, with the path and the system's reason, when the file cannot be opened or
  // mapped.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  const char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace hymba

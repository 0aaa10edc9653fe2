#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace hymba {

MappedFile::MappedFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorCode::kModelFormat, "cannot open ", path, ": ", std::strerror(errno));
  struct stat status {};
  const bool known = fstat(fd, &status) == 0;
  void* data = MAP_FAILED;
  if (known && status.st_size > 0)
    data = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, fd, 0);
  const int reason = errno;
  close(fd);  // the mapping outlives the descriptor
  if (data == MAP_FAILED)
    fail(ErrorCode::kModelFormat, "cannot map ", path, ": ",
         known && status.st_size == 0 ? "it is empty" : std::strerror(reason));
  data_ = static_cast<const char*>(data);
  bytes_ = static_cast<size_t>(status.st_size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), bytes_);
}

}  // namespace hymba

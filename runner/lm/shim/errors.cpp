// tch 0.26 frees a number that an operator was given before it looks for the operator's error, and takes that for the
// error of freeing, which it cannot report but by a panic. Here the error stays for the second look.
//
// setup.sh gives torch-sys's two functions other names when it compiles them, and programs find these.

#include "torch_api.h"

#include "../../setup/glibc.hpp"

#undef ats_free
#undef get_and_reset_last_err

static thread_local bool has_freed = false;

extern "C" {

void ats_free(scalar number) {
  tch_ats_free(number);
  has_freed = torch_last_err != nullptr;
}

// Looked at after each call.
char *get_and_reset_last_err() {
  if (has_freed) {
    has_freed = false;
    return nullptr;
  }
  return tch_get_and_reset_last_err();
}

} // extern "C"

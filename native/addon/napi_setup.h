// The only door to Node-API: node-addon-api with C++ exceptions.
#pragma once

#include <napi.h>

"""The kernels, one file a family: each writes its LLVM IR and says what its steps need."""

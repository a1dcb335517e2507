"""What every backend that generates code needs; it knows no LLVM."""

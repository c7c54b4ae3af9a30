"""ONNX files of compressed networks: packed integers on disk, filters rebuilt by any runtime."""

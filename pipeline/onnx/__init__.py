"""Write and run ONNX files of compressed networks: packed integers on disk, filters rebuilt by the runtime."""

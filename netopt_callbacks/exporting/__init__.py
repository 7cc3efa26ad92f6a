"""The way out of CNTK: a network as one ONNX file; `nc.deploy.export` is the face,
`docs/deploy.md` has the details."""

"""Points in the plane, drawn without end or read from a file (appendix 9.2.1)."""

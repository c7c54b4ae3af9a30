"""Code integers without loss by their entropy: static frequency tables and interleaved rANS, integers only.

A stream has *groups* of integers, each with a table of its own, and *blocks*: the integers of one layer. A block is
either one group for each term, or it has classes (``quant.entropy.classes``), which select the table of each integer.

    byte 0                 log2 of the number of lanes, which have at most 65,536 symbols each
    varint                 bytes of the descriptions
    varint                 number of words
    varint                 number of groups
    varint                 number of classes
    descriptions           bits: 1 for each block, set for one with classes; then the description of each group's table
                           and of each class's table, see ``quant.entropy.tables``
    states                 4 bytes for each lane, little-endian
    words                  2 bytes each, little-endian, see ``quant.entropy.rans``
    escapes                bits, to the end: the integers outside the tables, in order, each as a signed integer

A varint has 7 bits in a byte, lowest first; the highest bit is set in all bytes but the last. The groups are those of
the caller; then, if a block has classes, the bases, the offsets of rows and the offsets of columns of all such blocks;
then the terms of the other blocks. The symbols of all groups follow one another in the lanes, and after them those of
the blocks with classes. Integers whose table is a constant have no symbols. The decoder needs the number of integers of
every group and the shape of every block. No operation of it depends on floating point, so a stream gives the same
integers on every machine.
"""

from quant.entropy.decoding import decode
from quant.entropy.encoding import BlockBits, coded_sizes, encode, encode_plan, planned_sizes
from quant.entropy.plan import Plan, make_plan

__all__ = ["BlockBits", "Plan", "coded_sizes", "decode", "encode", "encode_plan", "make_plan", "planned_sizes"]

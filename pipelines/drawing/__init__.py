"""What `raygan sample` does: many images to files, in this process or by Ray's actors; and grids, films and projections."""

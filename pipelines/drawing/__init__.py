"""What `raygan sample` does: many images to files, in this process or by Ray Data's actors; and grids, films and projections."""

"""What a trained network costs, its fastest exact form, and how it leaves Python."""

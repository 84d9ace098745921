"""Parts of benchmarks: contenders and their start-up; zoo, data and methods of real selections."""

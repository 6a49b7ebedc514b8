# An Eigen that loraplus must refuse.
set(Eigen3_VERSION 3.3.9)

. ../../TEMPLATE/cwcl1/path.sh

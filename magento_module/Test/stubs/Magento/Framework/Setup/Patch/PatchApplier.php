<?php

declare(strict_types=1);

namespace Magento\Framework\Setup\Patch;

class PatchApplier
{
    public function revertDataPatches($moduleName = null)
    {
    }
}

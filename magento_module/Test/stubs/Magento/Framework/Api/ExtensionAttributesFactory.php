<?php

declare(strict_types=1);

namespace Magento\Framework\Api;

class ExtensionAttributesFactory
{
    public function create($extensibleClassName, $data = [])
    {
        return new class {
            public ?array $provenance = null;

            public function setTocsinProvenance(?array $provenance): self
            {
                $this->provenance = $provenance;
                return $this;
            }

            public function getTocsinProvenance(): ?array
            {
                return $this->provenance;
            }
        };
    }
}
